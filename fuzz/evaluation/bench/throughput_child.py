"""The process of one side of `throughput`: runs cases as often as it is told, and says how long that took.

It is started as a file, with whatever `indexfuzz` its path leads to: it uses nothing that an older release may lack. It
reads JSON from standard input, an object a line, and answers each with one.
"""

import json
import sys
import time
from importlib import import_module
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
from typing import Any

import torch

LAYOUTS = (
    (("core.case", "Case"), ("core.setup", "Setup"), ("subjects.open", "prepare")),
    (("case", "Case"), ("under_test", "Setup"), ("under_test", "put_under_test")),
)
"""Where releases have a case, a setup, and what puts it under test: this one, and those without folders for areas."""


def find_parts() -> tuple[Any, Any, Any]:
    """A case, a setup, and what puts it under test, of the release that the path leads to.

    An editable install would find in this release what another one lacks: nothing shall come from two releases. Raises
    ModuleNotFoundError where a release has another layout than these.
    """
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter, PathFinder]
    *others, last = LAYOUTS
    for layout in others:
        try:
            return _import(layout)
        except ModuleNotFoundError:
            continue
    return _import(last)


def _import(layout: tuple[tuple[str, str], ...]) -> tuple[Any, Any, Any]:
    case, setup, prepare = (getattr(import_module(f"indexfuzz.{module}"), name) for module, name in layout)
    return case, setup, prepare


class Side:
    """What is measured: the built-in kernels on a device, and the cases, by number."""

    def __init__(self, device: str) -> None:
        self._case, setup, prepare = find_parts()
        self._subject = prepare(setup(device=device)).subject
        self._cases: dict[int, Any] = {}

    def take(self, cases: dict[str, str]) -> list[int]:
        """Read the cases; the numbers of those that this release knows."""
        for number, text in cases.items():
            try:
                self._cases[int(number)] = self._case.model_validate_json(text)
            except ValueError:  # made of words that came later
                continue
        return sorted(self._cases)

    def run(self, numbers: list[int]) -> dict[str, Any]:
        """Run cases: CPU and wall seconds, and the signatures that each showed, None where it could not be run."""
        shown: dict[int, list[str] | None] = {}
        wall, cpu = time.perf_counter(), time.process_time()
        for number, case in [(number, self._cases[number]) for number in numbers]:
            try:
                shown[number] = [str(finding.signature) for finding in self._subject.run(case).findings]
            except Exception:  # noqa: BLE001 - whatever it is, there is nothing to compare
                shown[number] = None
        return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "shown": shown}


def main() -> None:
    """Answer until the input ends."""
    torch.set_num_threads(1)
    (device,) = sys.argv[1:]
    if device == "interpreter":
        from indexfuzz.evaluation.bench.interpreter_child import repair_masks  # noqa: PLC0415 - others lack it

        repair_masks()
    try:
        side = Side(device)
    except ModuleNotFoundError as error:
        sys.exit(f"error: the release that is to be measured has no module {error.name}")
    for line in sys.stdin:
        asked = json.loads(line)
        answer = side.take(asked["take"]) if "take" in asked else side.run(asked["run"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
