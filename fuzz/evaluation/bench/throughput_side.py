"""One side of `throughput`: a process with this package, or with that of another checkout."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import indexfuzz
from indexfuzz.core.case import Case

CHILD = Path(__file__).with_name("throughput_child.py")
MOUNTED = ("kernels", "reference")
"""Folders beside fuzz/ that are part of the package."""


class SideError(Exception):
    """A side cannot run. One sentence."""


@dataclass(frozen=True)
class Answer:
    """CPU and wall seconds of some cases, and the signatures that each showed; None where it could not be run."""

    cpu: float
    wall: float
    shown: Mapping[int, Sequence[str] | None]


class Side:
    """A process that runs cases, which it knows by number."""

    def __init__(self, name: str, process: "subprocess.Popen[str]", cases: Sequence[Case]) -> None:
        self.name = name
        self._process = process
        self.known = frozenset(self._ask(take=_texts(cases)))
        """The cases that its release has all words for."""

    def run(self, numbers: Sequence[int]) -> Answer:
        """Run cases, one after the other.

        Raises SideError when the process ends instead.
        """
        answer = self._ask(run=list(numbers))
        shown = {int(number): signatures for number, signatures in answer["shown"].items()}
        return Answer(answer["cpu"], answer["wall"], shown)

    def _ask(self, **question: Any) -> Any:
        with suppress(BrokenPipeError):  # the answer will say that it ended
            self._stdin.write(json.dumps(question) + "\n")
            self._stdin.flush()
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise SideError(f"{self.name} ended with code {self._process.wait()}; what it printed says why")
        return json.loads(line)

    @property
    def _stdin(self) -> Any:
        return self._process.stdin


def _texts(cases: Sequence[Case]) -> dict[int, str]:
    """Cases as JSON without what is as ever, so that words of later releases show only where they matter."""
    return {number: case.model_dump_json(exclude_defaults=True) for number, case in enumerate(cases)}


@contextmanager
def start_side(
    name: str,
    device: str,
    cases: Sequence[Case],
    *,
    checkout: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Side]:
    """A process that has the cases, with this package or that of a checkout, on a device.

    Raises SideError where the checkout is none, or its release cannot run.
    """
    with TemporaryDirectory() as folder:
        mount(Path(folder), checkout)
        given = {"OMP_NUM_THREADS": "1"} | dict(environment or {})
        paths = [folder, given.get("PYTHONPATH") or os.environ.get("PYTHONPATH") or ""]
        process = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-P", str(CHILD), device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | given | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
        try:
            yield Side(name, process, cases)
        finally:
            process.kill()
            process.communicate()


def mount(folder: Path, checkout: Path | None) -> None:
    """Make `folder` a place from which the package of a checkout is imported, that of this process without one.

    Raises SideError for a folder that is no checkout.
    """
    package = folder / "indexfuzz"
    package.mkdir()
    if checkout is None:
        (source,) = indexfuzz.__path__
        others = [Path(sys.modules[f"indexfuzz.{name}"].__path__[0]) for name in MOUNTED]
    else:
        source, others = str(checkout / "fuzz"), [checkout / name for name in MOUNTED]
    missing = [str(path) for path in (Path(source), *others) if not path.is_dir()]
    if missing:
        raise SideError(f"--against {checkout}: no checkout of IndexFuzz, it has no folder {missing[0]}")
    for path in (*Path(source).iterdir(), *others):
        (package / path.name).symlink_to(path.resolve())
