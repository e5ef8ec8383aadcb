"""Rehearse a case: call the launchers of some stages without running a kernel, to see what they decide.

It takes a hundredth of the time that running the case does. Results are nobody's: each stage is given zeros in place of
what the ones before it would have made. Launchers may keep what their kernels should have filled, so a process that has
rehearsed must run nothing.
"""

from collections.abc import Collection, Iterator
from contextlib import suppress

import torch

from indexfuzz.core.case import Case
from indexfuzz.core.comparison import Comparison
from indexfuzz.core.contract import covers
from indexfuzz.devices.base import Device
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.watching import EndlessError, watching
from indexfuzz.lockstep import skip_launches
from indexfuzz.samples.hollow import materialise_hollow
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Stage
from indexfuzz.stages.table import OPERATIONS, STAGES

MOST_LAUNCHES = 1000
"""Launches of one stage: a launcher may wait for something that only kernels do."""

MOST_CONDITIONS = 30_000
"""Conditions of the code under test that come up in one stage, for the same reason; counted, for a rehearsal that time
ends would end elsewhere on another machine."""


def rehearse(
    case: Case, implementation: Implementation, device: Device, stages: Collection[str] = ()
) -> dict[str, list[Comparison]]:
    """What the launcher of each stage compares in a case, all of them where none are named.

    A launcher that cannot do without its kernels has compared what it did until it raised something.
    """
    found = dict[str, list[Comparison]]()
    if case.session.steps or case.rope.mode == "compiled":
        return found
    wanted = {name for name in stages or implementation.stages if covers(implementation.contract, name, case)}
    for stage, call in hollow_calls(case, device, wanted):
        if function := implementation.stages.get(stage.name):
            with (
                suppress(Exception, EndlessError),
                watching(MOST_CONDITIONS) as comparisons,
                skip_launches(MOST_LAUNCHES),
            ):
                call.run(function)
            found.setdefault(stage.name, []).extend(comparisons)
    return found


def hollow_calls(case: Case, device: Device, wanted: Collection[str]) -> Iterator[tuple[Stage, Call]]:
    """The calls of some operations and stages, on tensors without values."""
    step = materialise_hollow(case, device.torch_device)
    for operation in OPERATIONS:
        if operation.name in wanted and operation.applies(case):
            yield operation, operation.prepare(step)
    last = max((place for place, stage in enumerate(STAGES) if stage.name in wanted), default=-1)
    for stage in STAGES[: last + 1]:
        if stage.applies(case):
            call = stage.prepare(step)
            if stage.name in wanted:
                yield stage, call
            _hand_over(stage, step, call)


def _hand_over(stage: Stage, step: Step, call: Call) -> None:
    """Zeros as the results of a stage, where the next one reads them; what takes an input's place goes there."""
    for name, (shape, dtype) in stage.forms(call).items():
        if name not in step.buffers:
            step.tensors[name] = torch.zeros(shape, dtype=torch.uint8, device=step.device).to(dtype)
