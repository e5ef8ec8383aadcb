"""A script for a relation between launches that are all right by themselves: it makes them, and compares one element.

Where the element of each launch lies follows from the relation itself: it is asked to compare outputs whose bytes say
where they are.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.case import Case
from indexfuzz.corpus.entry import Record
from indexfuzz.oracles.launching import launch, launch_in
from indexfuzz.oracles.metamorphic.catalogue import COMPILED, relations_for
from indexfuzz.oracles.metamorphic.relation import Pairs, Relation, Twin
from indexfuzz.oracles.walk import function_for, launches
from indexfuzz.stages.base import Tensors
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import UnderTest
from indexfuzz.triage.launches import Launch, ReproError, describe_launch
from indexfuzz.triage.literals import raw
from indexfuzz.triage.repro_source import kernel_source
from indexfuzz.triage.repro_text import assemble, assign_inputs, tell_written, write_call

DIGITS = 4
"""Bytes of a place."""

COMPARE = """what = {what!r}
print(f"{{what}} is {{bytes(one[::-1]).hex()}}, and {{bytes(other[::-1]).hex()}} {change}, in hexadecimal")
raise SystemExit(one != other)
"""


class _Place(NamedTuple):
    """Where an element lies: which launch made it, in which output, and its bytes there, counted as `raw` has them."""

    launch: int
    output: str
    at: list[int]


class _Broken(NamedTuple):
    """A relation that does not hold: the first launch, those of its twin, and where the element lies in either."""

    relation: Relation
    one: Launch
    others: list[Launch]
    here: _Place
    there: _Place


def relation_script(case: Case, finding: Record, target: UnderTest[InProcess]) -> str:
    """The text of the script; it ends with 1 where the launches make different things of the element.

    Raises ReproError where that does not show, or the relation compares anything but what launches have made.
    """
    signature, subject = finding.signature, target.subject
    broken = next(_look(case, finding, subject), None)
    if broken is None:
        raise ReproError(f"no launch by itself shows {signature}, nor do two; `indexfuzz replay` does")
    known: dict[str, str] = {}
    body = f"{tell_written(broken.one)}{_make(broken.one, known, 0, 'one', broken.here)}\n# {broken.relation.change}\n"
    for number, other in enumerate(broken.others):
        body += _make(other, known, number, "other", broken.there)
    what = f"{signature.output}{list(finding.index)}"
    body += "\n" + COMPARE.format(what=what, change=broken.relation.change)
    source = kernel_source(target, signature.stage, case)
    return assemble(subject.facts.name, signature.stage, finding, source, body)


def _make(made: Launch, known: dict[str, str], number: int, name: str, place: _Place) -> str:
    """A launch, and the bytes of the element that it has made."""
    text = f"{assign_inputs(made, known)}\n{write_call(made)}\n"
    for returned in made.names if made.returns else ():
        known.pop(returned, None)
    if number == place.launch:
        text += f"{name} = raw({place.output}).flatten()[{place.at}].tolist()\n"
    return text


def _look(case: Case, finding: Record, subject: InProcess) -> Iterator[_Broken]:
    """Launch what the relation compares until it does not hold for the element of a finding."""
    signature, device = finding.signature, subject.device
    every = (*relations_for(case), COMPILED)
    relation = next((relation for relation in every if relation.kind == signature.kind), None)
    function = function_for(signature.stage, case, subject.implementation)
    if relation is None or function is None or not finding.index:
        return
    for stage, step, call in launches(case, device):
        if stage.name != signature.stage or stage.name not in relation.twins:
            continue
        one = describe_launch(stage, call)
        first = launch_in(step, stage.name, call, function, device)
        if first.error:
            continue
        for twin in relation.twins[stage.name](case, call):
            if twin.stage:
                continue
            others = [describe_launch(stage, twin_call) for twin_call in twin.calls]
            made = [launch(stage.name, twin_call, function, device) for twin_call in twin.calls]
            if any(launched.error for launched in made):
                continue
            outputs = [launched.copies() for launched in made]
            pair = twin.pairs(first.outputs, outputs).get(signature.output)
            if pair and _differ(pair, finding.index):
                places = _trace(twin, signature.output, finding.index, first.outputs, outputs)
                if places:
                    yield _Broken(relation, one, others, *places)


def _differ(pair: tuple[Tensor, Tensor], index: tuple[int, ...]) -> bool:
    want, got = (describe.bits(tensor) for tensor in pair)
    return len(index) == got.dim() and bool(want[index] != got[index])


def _trace(
    twin: Twin, output: str, index: tuple[int, ...], first: Tensors, others: Sequence[Tensors]
) -> tuple[_Place, _Place] | None:
    """Where an element comes from in the first launch and in the others; None where it is computed from several."""
    every = [(number, name, tensor) for number, made in enumerate((first, *others)) for name, tensor in made.items()]
    sizes = [raw(tensor).numel() for _, _, tensor in every]
    codes = [[torch.full((size,), which) for which, size in enumerate(sizes)]]
    codes += [[torch.arange(size) >> 8 * digit & 0xFF for size in sizes] for digit in range(DIGITS)]
    told = [_pairs_of(twin, every, each) for each in codes]
    found = []
    real = twin.pairs(first, others)[output]
    for side in (1, 0):
        which, *digits = (raw(pairs[output][side][index].reshape(1)).flatten().tolist() for pairs in told)
        if len(set(which)) != 1 or which[0] >= len(every):
            return None
        number, name, tensor = every[which[0]]
        at = [sum(byte << 8 * digit for digit, byte in enumerate(each)) for each in zip(*digits, strict=True)]
        flat, here = raw(tensor).flatten(), raw(real[side][index].reshape(1)).flatten()
        if max(at) >= len(flat) or not torch.equal(flat[at], here):
            return None
        found.append(_Place(number if side else number - 1, name, at))
    return found[0], found[1]


def _pairs_of(twin: Twin, every: Sequence[tuple[int, str, Tensor]], codes: Sequence[Tensor]) -> Pairs:
    """What a relation compares where the bytes of all outputs are these."""
    made: dict[int, dict[str, Tensor]] = {}
    for (number, name, tensor), code in zip(every, codes, strict=True):
        copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
        made.setdefault(number, {})[name] = copy.copy_(code.to(torch.uint8).view(tensor.dtype).view(tensor.shape))
    first, *others = (made[number] for number in sorted(made))
    return twin.pairs(first, others)
