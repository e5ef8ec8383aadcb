"""Rehearse a case: call the launchers of some stages without running a kernel, to see what they decide.

It takes a hundredth of the time that running the case does. Results are nobody's: each stage is given zeros in place of
what the ones before it would have made. Launchers may keep what their kernels should have filled, so a process that has
rehearsed must run nothing.
"""

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial

import torch

from indexfuzz.core.case import Case
from indexfuzz.core.comparison import Comparison
from indexfuzz.core.contract import covers
from indexfuzz.core.stage_names import FORWARD
from indexfuzz.devices.base import Device
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.watching import EndlessError, watching
from indexfuzz.lockstep import skip_launches
from indexfuzz.oracles import composition
from indexfuzz.samples.hollow import materialise_hollow
from indexfuzz.samples.lazy import Makers
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Stage
from indexfuzz.stages.nonfinite import may_be_nonfinite
from indexfuzz.stages.table import GATHER, OPERATIONS, PAGED_LOGITS, PREFILL_LOGITS, Q_QUANT, STAGES

MOST_LAUNCHES = 1000
"""Launches of one stage, or of the whole: a launcher may wait for something that only kernels do."""

MOST_CONDITIONS = 30_000
"""Conditions of the code under test that come up in one stage, or in the whole, for the same reason; counted, for a
rehearsal that time ends would end elsewhere on another machine."""

NEVER_COMPILE = "TORCHDYNAMO_DISABLE"
"""A variable of the environment: while it is 1, torch.compile gives back the function that it is given."""


def rehearse(
    case: Case, implementation: Implementation, device: Device, stages: Collection[str] = ()
) -> dict[str, list[Comparison]]:
    """What the launcher of each stage compares in a case, all of them where none are named.

    The whole indexer is called, too, where a run would: of what it compares, all is given that no launcher has compared
    in the same rehearsal. A launcher that cannot do without its kernels has compared what it did until it raised
    something.
    """
    found = dict[str, list[Comparison]]()
    if case.session.steps or case.rope.mode == "compiled":
        return found
    wanted = {name for name in stages or implementation.stages if covers(implementation.contract, name, case)}
    for stage, call in hollow_calls(case, device, wanted):
        if function := implementation.stages.get(stage.name):
            found.setdefault(stage.name, []).extend(_watch(partial(call.run, function)))
    whole = implementation.forward
    if whole is not None and (not stages or FORWARD in stages) and _is_run_whole(case, implementation):
        launchers = {one.place for compared in found.values() for one in compared}
        compared = _watch(partial(whole, materialise_hollow(case, device.torch_device)))
        found[FORWARD] = [one for one in compared if one.place not in launchers]
    return found


def _is_run_whole(case: Case, implementation: Implementation) -> bool:
    return composition.applies(case, implementation) and not may_be_nonfinite(case)


def _watch(call: Callable[[], object]) -> list[Comparison]:
    """What the code under test compares in a call, in which no kernel runs."""
    with (
        suppress(Exception, EndlessError),
        _uncompiled(),
        watching(MOST_CONDITIONS) as comparisons,
        skip_launches(MOST_LAUNCHES),
    ):
        call()
    return comparisons


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Have what torch.compile would compile run as it stands: compiling takes seconds, and is lost with a copy."""
    before = os.environ.get(NEVER_COMPILE)
    os.environ[NEVER_COMPILE] = "1"  # for what is given to torch.compile in here
    try:
        if "torch._dynamo" in sys.modules:  # else importing it takes seconds, and nothing was given to torch.compile
            with torch.compiler.set_stance("force_eager"):
                yield
        else:
            yield
    finally:
        if before is None:
            del os.environ[NEVER_COMPILE]
        else:
            os.environ[NEVER_COMPILE] = before


def hollow_calls(case: Case, device: Device, wanted: Collection[str]) -> Iterator[tuple[Stage, Call]]:
    """The calls of some operations and stages, on tensors without values."""
    step = materialise_hollow(case, device.torch_device, _making_results)
    for stage in (*OPERATIONS, *STAGES):
        if stage.name in wanted and stage.applies(case):
            yield stage, stage.prepare(step)


def _making_results(step: Step) -> Makers:
    """What makes the tensors that a stage would have made for the next one, but for what takes an input's place."""
    filled = {names: partial(stage.prepare, step) for names, stage in FILLED.items()}
    return {**filled, ("q_fp8", "q_weights"): lambda: _hand_over(Q_QUANT, step, Q_QUANT.prepare(step))}


FILLED: Mapping[tuple[str, ...], Stage] = {
    ("k_fp8", "k_scale"): GATHER,
    (PREFILL_LOGITS.name,): PREFILL_LOGITS,
    (PAGED_LOGITS.name,): PAGED_LOGITS,
}
"""Tensors that a stage is given to fill, made as it is prepared."""


def _hand_over(stage: Stage, step: Step, call: Call) -> None:
    """Zeros as the results of a stage."""
    for name, (shape, dtype) in stage.forms(call).items():
        step.tensors[name] = torch.zeros(shape, dtype=torch.uint8, device=step.device).to(dtype)
