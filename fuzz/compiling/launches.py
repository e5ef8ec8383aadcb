"""The launches that an implementation makes of some cases: no kernel runs, so a process that asks must run nothing."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from indexfuzz.core.case import Case
from indexfuzz.core.contract import covers
from indexfuzz.core.session import follow
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.sources import source_texts
from indexfuzz.implementations.watching import EndlessError, watch, watching
from indexfuzz.lockstep import skip_launches
from indexfuzz.oracles.rehearsal import MOST_CONDITIONS, MOST_LAUNCHES, hollow_calls
from indexfuzz.samples.serving import Serving
from indexfuzz.stages.base import Call
from indexfuzz.stages.table import making_keys


class Launch(NamedTuple):
    """A kernel, what it was given, the operation that launched it, and the case of that."""

    stage: str
    case: Case
    kernel: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def launches(cases: Iterable[Case], implementation: Implementation) -> Iterator[Launch]:
    """Every launch of the operations that an implementation has and whose contract covers a case.

    A launcher that cannot do without its kernels has launched what it did until it raised something.
    """
    watch(source_texts(implementation))
    for case in cases:
        for stage, call in _calls(case, implementation):
            quietly = suppress(Exception, EndlessError)
            with quietly, watching(MOST_CONDITIONS), skip_launches(MOST_LAUNCHES) as skipped:
                call.run(implementation.stages[stage])
            yield from (Launch(stage, case, *launch) for launch in skipped)


def _calls(case: Case, implementation: Implementation) -> Iterator[tuple[str, Call]]:
    is_covered = partial(covers, implementation.contract, case=case)
    wanted = {stage for stage in implementation.stages if is_covered(stage)}
    if not case.session.steps:
        yield from ((stage.name, call) for stage, call in hollow_calls(case, LockstepDevice(), wanted))
    elif case.session.node in wanted:
        yield from _calls_of_session(case, implementation)


def _calls_of_session(case: Case, implementation: Implementation) -> Iterator[tuple[str, Call]]:
    """The operation that makes the keys of a session, in each of its steps."""
    serving = Serving(case, LockstepDevice().home, kept=implementation.kept(case))
    for number, (step, rows) in enumerate(zip(case.session.steps, follow(case.session), strict=True)):
        serving.begin(number, step, rows)
        stage = making_keys(case.session.node, [serving.requests[row.request].tokens for row in rows])
        yield stage.name, stage.prepare(serving.making_step(number, step, rows))
        serving.end(step, rows)
