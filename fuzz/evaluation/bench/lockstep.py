"""How fast lockstep is: each kernel in turn in Triton's interpreter, in lockstep, and in lockstep without checkers.

A launch always does the same work, so whatever makes one of them slower than another is the machine's doing: the figure
of a side is the CPU time of its fastest launch. The sides take turns, so that a machine that is busy for a while takes
that chance from none of them.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import triton

from indexfuzz import implementations
from indexfuzz.core.setup import DEFAULT_IMPLEMENTATION
from indexfuzz.evaluation.bench.interpreter import Interpreter, InterpreterError, interpreter
from indexfuzz.evaluation.bench.workloads import Launch, prepare
from indexfuzz.implementations.base import Implementation, ImplementationError
from indexfuzz.lockstep import ALL_CHECKERS, Lockstep
from indexfuzz.stages.table import STAGES
from indexfuzz.stages.workloads import HEAD_DIM

REPEATS = 7
SHORTEST = 0.05
"""Seconds that one measurement of lockstep takes at least; short launches are repeated until then."""

Timer = Callable[[], float]


@dataclass(frozen=True)
class Row:
    """Milliseconds of CPU time of the fastest launch; `note` says why one of them is missing."""

    implementation: str
    stage: str
    size: tuple[int, ...]
    interpreter_ms: float | None
    lockstep_ms: float
    unchecked_ms: float
    note: str = ""

    @property
    def speedup(self) -> float | None:
        """How many times as fast as the interpreter, with every checker on."""
        return self.interpreter_ms / self.lockstep_ms if self.interpreter_ms is not None else None

    @property
    def cost_of_checkers(self) -> float:
        """Time with every checker as a multiple of the time with none."""
        return self.lockstep_ms / self.unchecked_ms

    def as_data(self) -> dict[str, Any]:
        """The row with its ratios as plain JSON data."""
        return asdict(self) | {"speedup": self.speedup, "cost_of_checkers": self.cost_of_checkers}


def main(*, as_json: bool, impl: str = DEFAULT_IMPLEMENTATION) -> int:
    """Measure an implementation and print a table, or JSON; 2 where something that is needed cannot be had."""
    torch.set_num_threads(1)
    try:
        with interpreter() as beside:
            rows = []
            for row in measure(impl, beside, REPEATS):
                rows.append(row)
                if not as_json:
                    _say(_line(row) if len(rows) > 1 else f"{HEADINGS}\n{_line(row)}")
            versions = {"numpy": np.__version__, "triton": triton.__version__, "interpreter": beside.versions}
    except (InterpreterError, ImplementationError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if as_json:
        shared = {"head_dim": HEAD_DIM, "repeats": REPEATS, "versions": versions}
        _say(json.dumps(shared | {"rows": [row.as_data() for row in rows]}, indent=1))
    else:
        _say(f"\nCPU time in ms of the fastest launch in {REPEATS} turns, head_dim {HEAD_DIM}; {_versions(versions)}")
    return 0


def workloads_of(implementation: Implementation) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every stage that an implementation has and that has a workload, with every size inside the contract."""
    for stage in STAGES:
        if stage.workload and stage.name in implementation.stages:
            for size in stage.workload.sizes:
                if implementation.contract.outside(stage.name, stage.workload.case(*size)) is None:
                    yield stage.name, size


def measure(impl: str, beside: Interpreter, repeats: int) -> Iterator[Row]:
    """A row for each workload of an implementation, named as after --impl; each side measured `repeats` times by turns.

    Raises ImplementationError for an implementation that is not to be had.
    """
    implementation = implementations.load(impl)
    for stage, size in workloads_of(implementation):
        launch = prepare(implementation, stage, size)
        checked, unchecked = in_lockstep(launch, ALL_CHECKERS), in_lockstep(launch, ())
        slow = partial(beside.seconds, impl, stage, size)
        taken, note = by_turns({"interpreter": slow, "lockstep": checked, "unchecked": unchecked}, repeats)
        fastest = {side: 1e3 * min(times) for side, times in taken.items() if times}
        name, slow_ms = implementation.name, fastest.get("interpreter")
        yield Row(name, stage, size, slow_ms, fastest["lockstep"], fastest["unchecked"], note)


def by_turns(sides: dict[str, Timer], repeats: int) -> tuple[dict[str, list[float]], str]:
    """The seconds of each side, one measurement of every side a turn; a side that cannot run is left out, and why."""
    taken: dict[str, list[float]] = {side: [] for side in sides}
    note = ""
    for _ in range(repeats):
        for side in list(sides):
            try:
                taken[side].append(sides[side]())
            except InterpreterError as error:
                note = f"the interpreter cannot run it: {error}"
                del sides[side]
    return taken, note


def in_lockstep(launch: Launch, checkers: Sequence[str]) -> Timer:
    """What measures launches in lockstep for at least SHORTEST seconds: the CPU seconds of the fastest."""
    machine = Lockstep(checkers=checkers)
    if checkers:
        for name, tensor in launch.arguments.items():
            machine.declare(name, tensor, initialised=launch.defined[name])
    with machine:
        launch.run()
    if machine.violations:
        raise AssertionError(f"the benchmark's own launch violates something: {machine.violations[0]}")

    def time_launches() -> float:
        fastest = math.inf
        with machine:
            ended = started = time.process_time()
            while ended - started < SHORTEST:
                before = ended
                launch.run()
                ended = time.process_time()
                fastest = min(fastest, ended - before)
        return fastest

    return time_launches


HEADINGS = (
    f"{'kernel':<30}{'size':>10}{'interpreter':>13}{'lockstep':>10}{'speedup':>9}{'no checkers':>13}{'checkers':>10}"
)


def _line(row: Row) -> str:
    slow = f"{row.interpreter_ms:.1f}" if row.interpreter_ms is not None else "-"
    times = f"{row.speedup:.1f}x" if row.speedup is not None else "-"
    text = (
        f"{row.implementation + ' ' + row.stage:<30}{' x '.join(map(str, row.size)):>10}{slow:>13}"
        f"{row.lockstep_ms:>10.2f}{times:>9}{row.unchecked_ms:>13.2f}{f'{row.cost_of_checkers:.2f}x':>10}"
    )
    return f"{text}  {row.note}" if row.note else text


def _versions(versions: dict[str, Any]) -> str:
    beside = versions["interpreter"]
    older = "" if beside["numpy"] == versions["numpy"] else f" ({beside['numpy']} for the interpreter)"
    return f"triton {versions['triton']}, numpy {versions['numpy']}{older}"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
