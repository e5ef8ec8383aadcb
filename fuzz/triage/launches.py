"""The launches that a finding is about: what a stage was given, and what the reference makes of that."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.session import follow
from indexfuzz.devices.base import Device
from indexfuzz.oracles import schedules, sessions
from indexfuzz.oracles.differential import initialised_bytes
from indexfuzz.oracles.walk import launches
from indexfuzz.samples.serving import MakeTokens
from indexfuzz.stages.base import Call, Stage
from indexfuzz.stages.table import STAGES, find
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.triage.session_keys import Key, rows_due

STATE = "state"
"""What a stateful operation keeps."""

ALIGNMENT = 64
"""Bytes to which PyTorch aligns storage; a tensor's offset matters up to that."""


class ReproError(Exception):
    """No script can be written. One sentence that says why."""


@dataclass(frozen=True)
class Launch:
    """A launch of a stage: what it was given, and what the reference makes of that, none where it defines nothing."""

    given: dict[str, Any]
    returns: bool
    names: tuple[str, ...]
    """Of the results."""
    results: tuple[Tensor, ...]
    fills: frozenset[str] = frozenset()
    """The arguments that it may write to."""
    written: dict[str, Tensor | bool] | None = None
    """Which bytes of the arguments hold something, where not all of them do; None where that is not known."""
    step: int = 0
    """Of the session."""
    copied: tuple[tuple[int, int], ...] = ()
    """Rings or pages of the state that were copied before it: which, and where to."""
    due: dict[int, Key] = field(default_factory=dict)
    """The rows with which a key is due, and the request and the number of the key."""


def find_reached(name: str, output: str, case: Case) -> Stage:
    """The stage of a finding; top-k stands in two places, and an exception does not say in which it was raised.

    Raises LookupError when there is no such stage.
    """
    stage = find(name, output)
    if stage.applies(case):
        return stage
    return next((other for other in STAGES if other.name == name and other.applies(case)), stage)


def launch_in_step(stage: Stage, case: Case, device: Device) -> Launch:
    """The launch of a stage in a case, with the inputs that the reference's stages make for it.

    Raises ReproError when the case does not reach the stage.
    """
    for here, step, call in launches(case, device):
        if here is stage:
            return describe_launch(stage, call, written=initialised_bytes(step, call))
    raise ReproError(f"the case does not reach the stage {stage.name}")


def launches_in_session(name: str, case: Case, subject: InProcess) -> list[Launch]:
    """The launches of a stage up to the one with which a session ends on a subject.

    What holds something in a state is not told: the reference keeps nothing in it, and the launches will.

    Raises ReproError when the session does not come to the stage.
    """
    ran = sessions.run(case, subject.implementation, subject.device).stages.count(name)
    found = list[Launch]()
    for number, stage, step, call in sessions.launches(case, subject.device, subject.implementation):
        if stage.name == name and len(found) < ran:
            written = {name: flags for name, flags in initialised_bytes(step, call).items() if name != STATE}
            found.append(replace(describe_launch(stage, call, number, written), copied=step.copied))
    if not found:
        raise ReproError(f"the session does not come to the stage {name}")
    return found


def all_launches(case: Case, subject: InProcess, make_tokens: MakeTokens | None = None) -> list[Launch]:
    """All launches of the operation that makes the keys of a session; of steps in which nothing happens, none."""
    session, maker, steps = case.session, schedules.maker_of(case), [*follow(case.session)]
    return [
        replace(describe_launch(stage, call, number), copied=step.copied, due=rows_due(steps[number], session.ratio))
        for number, stage, step, call in sessions.launches(case, subject.device, subject.implementation, make_tokens)
        if stage.name == maker and (session.steps[number].tokens or session.steps[number].forks)
    ]


def describe_launch(
    stage: Stage, call: Call, number: int = 0, written: Mapping[str, Tensor | bool] | None = None
) -> Launch:
    """A call as it is now, copied, with what the reference makes of it; `number` is that of its step of a session."""
    given = {name: _copy(value) for name, value in (call.tensors | call.options).items()}
    known = None if written is None else _partly(written)
    launch = Launch(given, bool(call.returns), call.results, (), frozenset(call.fills), known, number)
    try:
        outputs = call.copy().run(stage.reference)
    except ValueError:
        return launch
    return replace(launch, results=tuple(_copy(outputs[name]) for name in call.results))


def _partly(written: Mapping[str, Tensor | bool]) -> dict[str, Tensor | bool]:
    """The flags of those of which some bytes hold nothing."""
    found: dict[str, Tensor | bool] = {}
    for name, flags in written.items():
        if isinstance(flags, Tensor) and not bool(flags.all()):
            found[name] = flags.contiguous()
        elif flags is False:
            found[name] = False
    return found


def _copy(value: Any) -> Any:
    """A copy with the same strides and alignment; anything that is no tensor as it is."""
    if not isinstance(value, Tensor):
        return value
    offset = offset_of(value)
    span = offset + 1 + sum((size - 1) * step for size, step in zip(value.shape, value.stride(), strict=True))
    storage = torch.empty(max(span, 0), dtype=value.dtype)
    return storage.as_strided(value.shape, value.stride(), offset).copy_(value)


def offset_of(tensor: Tensor) -> int:
    """Elements between a multiple of ALIGNMENT and the tensor's first one.

    Bytes that lie inside a larger storage do so in a script: they are looked at through views of other dtypes, which
    are made by where the storage starts.
    """
    before = int(tensor.storage_offset())
    offset = before % (ALIGNMENT // tensor.element_size())
    return offset + ALIGNMENT if tensor.dtype == torch.uint8 and before > offset else offset
