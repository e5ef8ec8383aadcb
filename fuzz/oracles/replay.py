"""Replay a captured launch with other contents: what the host decided when it was captured must not matter.

Engines capture the launches of a step in a graph, and replay it with other lengths, tables, slots and values in the
same buffers. Nothing of the host runs again: a grid, an option or an offset that was made from contents is stale then.
The launch is captured on one case; the contents are those of a second case of the same shapes, whose own fresh launch
says what must come out. Of a session every step is captured anew, and both sessions go on by fresh launches.
"""

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding, in_step
from indexfuzz.core.outcome import Outcome
from indexfuzz.devices.base import CaptureError, Capturing, Device
from indexfuzz.implementations.base import Implementation, StageFunction
from indexfuzz.oracles.pairs import OF_CACHE, Pair, differences, forms, go_on, own, pairs_of, with_other_contents
from indexfuzz.oracles.walk import function_for, require_format
from indexfuzz.stages.base import Call

KIND = "metamorphic/replay"

INTEGERS = (torch.int32, torch.int64)
MOST_TOLD = 16
"""Elements of a tensor whose contents are told."""

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
    for number, (stage, captured, call) in enumerate(pairs_of(case, other, implementation, device)):
        function = function_for(stage.name, case, implementation, only)
        if function is None or function_for(stage.name, other, implementation, only) is None:
            continue
        fresh = own(call, device.torch_device)
        with device.session():
            outputs = fresh.run(function)
        if forms(captured) == forms(call):
            with suppress(CaptureError):
                pair = Pair(stage, own(captured, device.torch_device), call)
                found = _replay(pair, outputs, function, implementation, device)
                outcome.stages.append(stage.name)
                for finding, wrong in found:
                    outcome.findings.append(in_step(finding, number) if case.session.steps else finding)
                    note(outcome.findings[-1], wrong)
        if outcome.findings:
            break
        if case.session.steps:
            go_on(captured, function, device)
            for name in call.fills:
                call.tensors[name].copy_(fresh.tensors[name])
    return outcome


def pair_of(case: Case, name: str, implementation: Implementation, device: Device, number: int = 0) -> Pair | None:
    """The calls of a stage, or of the operation in one step of a session, as a replay is given them; None without.

    Both sessions come to that step by launches of their own.
    """
    other = with_other_contents(case)
    for at, pair in enumerate(pairs_of(case, other, implementation, device) if other else ()):
        is_there = at == number if case.session.steps else pair.stage.name == name
        if is_there:
            return pair if forms(pair.captured) == forms(pair.call) else None
        if case.session.steps:
            for call in (pair.captured, pair.call):
                go_on(call, implementation.stages[name], device)
    return None


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
    for name, wrong in differences(pair.stage, pair.call, outputs, fresh, implementation):
        index = describe.first(wrong)
        place = describe.place(index, pair.stage.axes.get(name, OF_CACHE))
        captured, launched = describe.text(outputs[name][index]), describe.text(fresh[name][index])
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
