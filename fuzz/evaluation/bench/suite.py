"""A project's tests in lockstep and in Triton's interpreter: what becomes of them, and how long each launch takes.

Launches of one kernel with arguments of the same description, constants included, are compared by the CPU time of the
fastest on each side. An item may take so long, and the interpreter often takes longer: a launch that had no time to end
counts with the time that it had, so that the interpreter would have taken at least as long.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

import triton

from indexfuzz.evaluation.bench.interpreter import InterpreterError, interpreter
from indexfuzz.evaluation.bench.outcomes import Item, as_data, describe_outcomes, find_missed, read_outcomes

PLUGIN: Final = "indexfuzz.evaluation.bench.suite_plugin"
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})

Key = tuple[str, str]
"""A kernel and its arguments in words."""


class SuiteError(Exception):
    """The tests cannot be run. One sentence."""


@dataclass(frozen=True)
class Timing:
    """CPU seconds of the fastest launch of its kind that ended, or of the longest that did not."""

    seconds: float
    finished: bool


@dataclass(frozen=True)
class Side:
    """What was seen on one side: launches by kernel and arguments, and what became of each item, by its name."""

    launches: dict[Key, Timing]
    items: dict[str, Item]


@dataclass(frozen=True)
class Row:
    """A kernel: how many kinds of launch were compared, CPU seconds of all of them together, and the slowest kind.

    `slowest` is the smallest ratio of the interpreter's time to lockstep's, `arguments` are those of that launch.
    """

    kernel: str
    kinds: int
    interpreter: float
    lockstep: float
    slowest: float
    arguments: str

    @property
    def speedup(self) -> float:
        """How many times as fast as the interpreter."""
        return self.interpreter / self.lockstep


def main(*, as_json: bool, path: str, every: int = 1, workers: Sequence[int] = ()) -> int:
    """Run a project's tests on both sides, and print what became of them and a line for each kernel, or JSON.

    `workers` is empty, for one process, or holds how many share the items of a side. Returns 0 where lockstep is slower
    on no kernel, and of what the interpreter passes nothing fails or takes too long; 1 otherwise; 2 where the tests
    cannot be run.
    """
    tests, share = Path(path), max(workers, default=1)
    try:
        lockstep = _run_in_lockstep(tests, every, share)
        with interpreter() as beside:
            slow = run_side(tests, "interpreter", every, share, beside.environment)
    except (InterpreterError, SuiteError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    rows, alone = compare(lockstep.launches, slow.launches)
    missed = find_missed(lockstep.items, slow.items)
    if as_json:
        data = {"triton": triton.__version__, "every": every, **as_data(lockstep.items, slow.items)}
        data |= {"rows": [asdict(row) for row in rows], "alone": alone}
        sys.stdout.write(json.dumps(data, indent=1) + "\n")
    else:
        sys.stdout.write(f"{describe_outcomes(lockstep.items, slow.items)}\n\n{describe(rows, alone)}\n")
    return int(any(row.speedup < 1 for row in rows) or any(miss.is_wrong for miss in missed))


def _run_in_lockstep(path: Path, every: int, workers: int) -> Side:
    """Raises SuiteError where nothing was launched, too."""
    side = run_side(path, "lockstep", every, workers)
    if not side.launches:
        why = f"`pytest --lockstep --lockstep-device cuda {path}` says why"
        raise SuiteError(f"the tests of {path} launch no Triton kernel in lockstep; {why}")
    return side


def run_side(path: Path, side: str, every: int, workers: int = 1, environment: Mapping[str, str] = _NOTHING) -> Side:
    """Every nth test of a file or folder on one side; so many processes share the tests.

    environment is what the processes are given besides this one's.

    Raises SuiteError.
    """
    if not path.exists():
        raise SuiteError(f"there are no tests at {path}")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        run = partial(_run_share, path, side, every=every * workers, given=environment)
        shares = [pool.submit(run, Path(folder) / str(n), first=every * n) for n in range(workers)]
        for share in shares:
            share.result()
        launches, items = (_read_lines(Path(folder), name) for name in ("launches", "items"))
    return Side(read_launches(launches), read_outcomes(items))


def _run_share(path: Path, side: str, folder: Path, first: int, every: int, given: Mapping[str, str]) -> None:
    """Run every nth item, from the first; the plugin writes into the folder, which is new."""
    folder.mkdir()
    words = ["-q", "-p", PLUGIN, "-p", "no:cacheprovider", "-W", "ignore", "--continue-on-collection-errors"]
    words += [f"--suite-results={folder}", f"--suite-first={first}", f"--suite-every={every}"]
    words += ["--lockstep", "--lockstep-device=cuda"] if side == "lockstep" else []
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"OMP_NUM_THREADS": "1", **given}
    command = [sys.executable, "-m", "pytest", *words, str(path.resolve())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603
    if done.returncode in {0, 1, 5}:  # passed, failed, none
        return
    if not any(folder.iterdir()):
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise SuiteError(f"the tests of {path} cannot be run ({side}): {''.join(last)}")
    sys.stderr.write(
        f"a process of the tests ended with {done.returncode} ({side}): what was left of its items did not run\n"
    )


def _read_lines(folder: Path, name: str) -> list[str]:
    """The lines of all files of that name, one from each process; a process that came to nothing wrote none."""
    files = sorted(folder.glob(f"*/{name}.jsonl"))
    return [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def read_launches(lines: Sequence[str]) -> dict[Key, Timing]:
    """What the plugin wrote, by kernel and arguments."""
    found: dict[Key, Timing] = {}
    for line in lines:
        data = json.loads(line)
        key, timing = (data["kernel"], data["arguments"]), Timing(data["seconds"], data["finished"])
        known = found.get(key, timing)
        if timing.finished != known.finished:
            found[key] = timing if timing.finished else known
        else:
            found[key] = (min if timing.finished else max)(timing, known, key=lambda t: t.seconds)
    return found


def compare(lockstep: dict[Key, Timing], slow: dict[Key, Timing]) -> tuple[list[Row], list[str]]:
    """A row for each kernel that ran on both sides, the slowest first, and the kernels that ended in lockstep alone."""
    compared: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for (kernel, arguments), timing in lockstep.items():
        beside = slow.get((kernel, arguments))
        if timing.finished and beside and (beside.finished or beside.seconds > timing.seconds):
            compared[kernel].append((beside.seconds, timing.seconds, arguments))
    rows = []
    for kernel, launches in compared.items():
        interpreted, own, arguments = min(launches, key=lambda launch: launch[0] / launch[1])
        total, total_own = sum(launch[0] for launch in launches), sum(launch[1] for launch in launches)
        rows.append(Row(kernel, len(launches), total, total_own, interpreted / own, arguments))
    ended = {kernel for (kernel, _), timing in lockstep.items() if timing.finished}
    return sorted(rows, key=lambda row: row.speedup), sorted(ended - compared.keys())


def describe(rows: Sequence[Row], alone: Sequence[str]) -> str:
    """A line for each kernel, then how many there are."""
    lines = [f"{'kernel':<64}{'launches':>9}{'interpreter':>13}{'lockstep':>10}{'speedup':>9}{'least':>9}"]
    lines += [
        f"{row.kernel[-63:]:<64}{row.kinds:>9}{row.interpreter:>13.3f}{row.lockstep:>10.3f}"
        f"{row.speedup:>8.1f}x{row.slowest:>8.1f}x"
        for row in rows
    ]
    slower = sum(row.speedup < 1 for row in rows)
    lines.append(
        f"\nCPU seconds; {len(rows)} kernels, {sum(row.kinds for row in rows)} kinds of launch; lockstep is slower on "
        f"{slower} kernels, and on some launch of {sum(row.slowest < 1 for row in rows)}; Triton {triton.__version__}"
    )
    if alone:
        lines.append(
            f"{len(alone)} kernels ran in lockstep alone: {', '.join(name.rpartition('.')[2] for name in alone)}"
        )
    return "\n".join(lines)
