"""Replay a captured launch with other contents: what the host decided when it was captured must not matter.

Engines capture the launches of a step in a graph, and replay it with other lengths, tables, slots and values in the
same buffers. Nothing of the host runs again: a grid, an option or an offset that was made from contents is stale then.
The launch is captured on one case; the contents are those of a second case of the same shapes, whose own fresh launch
says what must come out. Of a session every step is captured anew, and both sessions go on by fresh launches.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.part import CaseError
from indexfuzz.core.rng import derive
from indexfuzz.core.session import follow
from indexfuzz.devices.base import CaptureError, Capturing, Device
from indexfuzz.implementations.base import Implementation, StageFunction
from indexfuzz.oracles.walk import function_for, launches, require_format
from indexfuzz.samples.serving import Serving
from indexfuzz.stages.base import Call, Stage
from indexfuzz.stages.table import making_keys

KIND = "metamorphic/replay"

INTEGERS = (torch.int32, torch.int64)
MOST_TOLD = 16
"""Elements of a tensor whose contents are told."""

OF_CACHE = ("page", "token", "byte")
"""What the axes of a cache are called, which stages name by values and scales."""


class Pair(NamedTuple):
    """A stage, its call on the case that is captured, and that on the case whose contents take its place."""

    stage: Stage
    captured: Call
    call: Call


Note = Callable[[Finding, Tensor], None]
"""Told what is found, and which elements of its output are others than in a fresh launch, bool of its shape."""


def run(
    case: Case,
    implementation: Implementation,
    device: Device,
    only: frozenset[str] = frozenset(),
    note: Note = lambda _finding, _wrong: None,
) -> Outcome:
    """Replay every stage that the device can capture, or the operation of every step of a session.

    Where the device captures nothing, or a function cannot be captured, nothing is found. Raises UnsupportedKernelError
    when the device has not the FP8 format.
    """
    outcome = Outcome(case)
    other = with_other_contents(case) if isinstance(device, Capturing) else None
    if not isinstance(device, Capturing) or other is None:
        return outcome
    require_format(case, device)
    for number, (stage, captured, call) in enumerate(_pairs(case, other, implementation, device)):
        function = function_for(stage.name, case, implementation, only)
        if function is None or function_for(stage.name, other, implementation, only) is None:
            continue
        fresh = _own(call, device.torch_device)
        with device.session():
            outputs = fresh.run(function)
        if _forms(captured) == _forms(call):
            with suppress(CaptureError):
                pair = Pair(stage, _own(captured, device.torch_device), call)
                where = f"step {number} of the session: " if case.session.steps else ""
                found = _replay(pair, outputs, function, implementation, device)
                outcome.stages.append(stage.name)
                for finding, wrong in found:
                    outcome.findings.append(replace(finding, detail=f"{where}{finding.detail}"))
                    note(outcome.findings[-1], wrong)
        if outcome.findings:
            break
        if case.session.steps:
            _go_on(captured, function, device)
            for name in call.fills:
                call.tensors[name].copy_(fresh.tensors[name])
    return outcome


def pair_of(case: Case, name: str, implementation: Implementation, device: Device, number: int = 0) -> Pair | None:
    """The calls of a stage, or of the operation in one step of a session, as a replay is given them; None without.

    Both sessions come to that step by launches of their own.
    """
    other = with_other_contents(case)
    for at, pair in enumerate(_pairs(case, other, implementation, device) if other else ()):
        is_there = at == number if case.session.steps else pair.stage.name == name
        if is_there:
            return pair if _forms(pair.captured) == _forms(pair.call) else None
        if case.session.steps:
            for call in (pair.captured, pair.call):
                _go_on(call, implementation.stages[name], device)
    return None


def with_other_contents(case: Case) -> Case | None:
    """The case with its requests in reverse, other values and other pages; None where there is no such case."""
    pages = "ordered" if case.cache.pages == "reversed" else "reversed"
    steps = tuple(step.model_copy(update={"turns": step.turns[::-1]}).model_dump() for step in case.session.steps)
    batch: dict[str, object] = {
        "decode": case.batch.decode[::-1],
        "prefill": tuple(p.model_dump() for p in case.batch.prefill[::-1]),
    }
    try:
        return case.replace(
            values={"seed": derive(case.values.seed, "replay")},
            cache={"pages": pages},
            batch=batch,
            session={"steps": steps},
        )
    except CaseError:
        return None


def _go_on(call: Call, function: StageFunction, device: Device) -> None:
    """Let a step of a session leave what it leaves."""
    with device.session() as session:
        there = call.with_tensors(session.bring(call.tensors))
        session.take_back(there.run(function))


def _pairs(case: Case, other: Case, implementation: Implementation, device: Device) -> Iterator[Pair]:
    if not case.session.steps:
        for (stage, _, captured), (same, _, call) in zip(launches(case, device), launches(other, device), strict=False):
            if stage.name != same.name:
                return
            yield Pair(stage, captured, call)
        return
    if case.session.node == "none":
        return
    servings = [Serving(c, device.home, kept=implementation.kept(c)) for c in (case, other)]
    followed = zip(case.session.steps, other.session.steps, follow(case.session), follow(other.session), strict=True)
    for number, (step, other_step, rows, other_rows) in enumerate(followed):
        calls = []
        for serving, own, turns in zip(servings, (step, other_step), (rows, other_rows), strict=True):
            serving.begin(number, own, turns)
            tokens = [serving.requests[row.request].tokens for row in turns]
            stage = making_keys(case.session.node, tokens)
            calls.append(stage.prepare(serving.making_step(number, own, turns)))
        yield Pair(stage, *calls)
        for serving, own, turns in zip(servings, (step, other_step), (rows, other_rows), strict=True):
            serving.end(own, turns)


def _replay(
    pair: Pair, fresh: dict[str, Tensor], function: StageFunction, implementation: Implementation, device: Capturing
) -> list[tuple[Finding, Tensor]]:
    """What differs between a replay with the contents of a call, in memory captured for it, and its fresh launch.

    With the elements that do, bool of the shape of its output.
    """
    changed = _tell_integers(pair.captured, pair.call)
    outputs, again = device.capture(lambda: pair.captured.run(function))
    for name, tensor in pair.call.tensors.items():
        pair.captured.tensors[name].copy_(tensor)
    again()
    masks = pair.stage.determined(pair.call, implementation.promises)
    for name, got in outputs.items():
        wrong = describe.bits(got) != describe.bits(fresh[name])
        wrong &= masks.get(name, torch.ones_like(wrong)).to(wrong.device)
        if name != "state" and bool(wrong.any()):
            index = describe.first(wrong)
            place = describe.place(index, pair.stage.axes.get(name, OF_CACHE))
            captured, launched = describe.text(got[index]), describe.text(fresh[name][index])
            detail = (
                f"{place} of {name} is {captured} where the launch was captured with other contents and replayed, "
                f"and {launched} where it is launched; {describe.share(wrong)}{changed}"
            )
            return [(Finding(pair.stage.name, KIND, name, detail, index=index), wrong)]
    return []


def _tell_integers(captured: Call, call: Call) -> str:
    """What the host may have read when it captured, and what is there when the launch is replayed."""
    # One of them is on the device.
    was, is_ = ({name: t.cpu() for name, t in each.tensors.items() if t.dtype in INTEGERS} for each in (captured, call))
    words = [
        f"{name} {was[name].tolist()}, then {is_[name].tolist()}"
        for name in was
        if name not in call.fills.values() and was[name].numel() <= MOST_TOLD and not torch.equal(was[name], is_[name])
    ]
    return f"; when it was captured {', '.join(words)}" if words else ""


def _forms(call: Call) -> dict[str, tuple[object, ...]]:
    """Whether two calls may be one graph: shapes, strides, dtypes and options."""
    tensors = {name: (t.shape, t.stride(), t.dtype) for name, t in call.tensors.items()}
    return tensors | {"options": tuple(call.options.items())}


def _own(call: Call, device: str) -> Call:
    """The call on memory of its own on a device, with the same strides."""
    return call.with_tensors({name: _like(tensor, device) for name, tensor in call.tensors.items()})


def _like(tensor: Tensor, device: str) -> Tensor:
    made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    return made.copy_(tensor)
