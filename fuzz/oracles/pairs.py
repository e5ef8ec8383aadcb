"""Two launches of one stage, with the contents of a case and with those of another that has the same shapes.

A step has a pair for every stage, its inputs made by the reference. Two sessions go on beside each other, with a pair
for the operation of every step.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.case import Case
from indexfuzz.core.part import CaseError
from indexfuzz.core.rng import derive
from indexfuzz.core.session import follow
from indexfuzz.devices.base import Device
from indexfuzz.implementations.base import Implementation, StageFunction
from indexfuzz.oracles.walk import launches
from indexfuzz.samples.serving import Serving
from indexfuzz.stages.base import Call, Stage
from indexfuzz.stages.table import making_keys

OF_CACHE = ("page", "token", "byte")
"""What the axes of a cache are called, which stages name by values and scales."""


class Pair(NamedTuple):
    """A stage, its call on a case, and that on the case of other contents."""

    stage: Stage
    captured: Call
    call: Call


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


def pairs_of(case: Case, other: Case, implementation: Implementation, device: Device) -> Iterator[Pair]:
    """The pairs of two cases, in order.

    Of a session, whoever takes a pair lets both calls leave what they leave before he takes the next.
    """
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
        for serving, own_step, turns in zip(servings, (step, other_step), (rows, other_rows), strict=True):
            serving.begin(number, own_step, turns)
            tokens = [serving.requests[row.request].tokens for row in turns]
            stage = making_keys(case.session.node, tokens)
            calls.append(stage.prepare(serving.making_step(number, own_step, turns)))
        yield Pair(stage, *calls)
        for serving, own_step, turns in zip(servings, (step, other_step), (rows, other_rows), strict=True):
            serving.end(own_step, turns)


def go_on(call: Call, function: StageFunction, device: Device) -> None:
    """Let a step of a session leave what it leaves."""
    with device.session() as session:
        there = call.with_tensors(session.bring(call.tensors))
        session.take_back(there.run(function))


def forms(call: Call) -> dict[str, tuple[object, ...]]:
    """What two calls of one form have in common: shapes, strides, dtypes and options."""
    tensors = {name: (t.shape, t.stride(), t.dtype) for name, t in call.tensors.items()}
    return tensors | {"options": tuple(call.options.items())}


def own(call: Call, device: str) -> Call:
    """The call on memory of its own on a device, with the same strides."""
    return call.with_tensors({name: _like(tensor, device) for name, tensor in call.tensors.items()})


def _like(tensor: Tensor, device: str) -> Tensor:
    made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    return made.copy_(tensor)


def differences(
    stage: Stage, call: Call, got: Mapping[str, Tensor], fresh: Mapping[str, Tensor], implementation: Implementation
) -> Iterator[tuple[str, Tensor]]:
    """The outputs that two launches of a call have made otherwise, and where: bool of the shape of each.

    What a stage does not determine may differ, and so may the state that an operation keeps for itself.
    """
    masks = stage.determined(call, implementation.promises)
    for name, output in got.items():
        wrong = describe.bits(output) != describe.bits(fresh[name])
        wrong &= masks.get(name, torch.ones_like(wrong)).to(wrong.device)
        if name != "state" and bool(wrong.any()):
            yield name, wrong
