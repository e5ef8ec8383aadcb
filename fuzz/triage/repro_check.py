"""What a standalone script looks at after the call: what its finding says of one element, or else all bytes.

An element is looked at as it was judged, within a bound or as one of several values. The whole of an output is compared
only where no element is named: another evaluation may be right with other bits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from indexfuzz.corpus.entry import Record
from indexfuzz.stages.base import Stage
from indexfuzz.triage.launches import Launch
from indexfuzz.triage.legal_words import Legal, read_legal, read_value
from indexfuzz.triage.literals import expression, raw
from indexfuzz.triage.repro_element import find_element

SEEN_BY_LOCKSTEP = frozenset({"out-of-bounds", "misaligned", "race", "order", "overflow", "promise", "uninitialised"})
"""Kinds that the values of an output need not show."""

RAISED = frozenset({"crash", "rejected", "hang"})
"""Kinds of a launch that does not end with a result."""


@dataclass(frozen=True)
class Claim:
    """What is to be shown: a finding about a launch of a stage, which the statement `call` makes."""

    stage: Stage
    finding: Record
    launch: Launch
    call: str

    @property
    def kind(self) -> str:
        """Of the finding."""
        return self.finding.signature.kind


def write_check(claim: Claim) -> str:
    """The call, and what tells a wrong result from a right one; the script ends with 1 for a wrong one."""
    return next(text for write in WRITERS if (text := write(claim)))


def _expect_refusal(claim: Claim) -> str:
    if claim.kind != "not-rejected":
        return ""
    return (
        f"try:\n    {claim.call}\nexcept ValueError as error:\n    print('rejected, as it must be:', error)\n"
        "else:\n    raise SystemExit('accepted, and must be rejected')\n"
    )


def _expect_end(claim: Claim) -> str:
    """Errors of a kernel or of lockstep end the script; they are all there is to see where nothing is defined.

    Where it is not known which bytes hold something, lockstep does not see all, and what comes of it is looked at.
    """
    if claim.kind in SEEN_BY_LOCKSTEP and claim.launch.written is not None:
        return f"{claim.call}\nprint('no access was wrong')\n"
    if claim.kind in RAISED or not claim.launch.results:
        return f"{claim.call}  # raises, or never ends\nprint('no error')\n"
    return ""


def _compare_inputs(claim: Claim) -> str:
    """A look at what should only have been read."""
    if claim.kind != "input-mutated":
        return ""
    given = claim.launch.given.items()
    inputs = [name for name, value in given if isinstance(value, Tensor) and name not in claim.launch.fills]
    return (
        f"inputs = {{{', '.join(f'{name!r}: {name}' for name in inputs)}}}\n"
        "before = {name: tensor.clone() for name, tensor in inputs.items()}\n"
        f"{claim.call}\nfor name, tensor in inputs.items():\n"
        "    if not torch.equal(raw(tensor), raw(before[name])):\n"
        '        raise SystemExit(f"{name} is an input, and has changed")\n'
    )


def _compare_argument(claim: Claim) -> str:
    """Whether an argument that is to be changed in place holds what was returned."""
    if claim.kind != "not-in-place":
        return ""
    name = claim.finding.signature.output
    return (
        f"argument = {name}\n{claim.call}\nif not torch.equal(raw(argument), raw({name})):\n"
        f"    raise SystemExit('{name} is right as it was returned, but the argument holds something else')\n"
    )


def _compare_selection(claim: Claim) -> str:
    """The logits that a row chose: any of equal ones may be taken, in any order unless that is the finding."""
    signature, index = claim.finding.signature, claim.finding.index
    if claim.stage.shown != "selection" or len(index) != 2:
        return ""
    name, row = signature.output, index[0]
    columns = claim.launch.results[claim.launch.names.index(name)][row].tolist()
    values = [claim.launch.given["logits"][row, column].item() for column in columns if column >= 0]
    if any(map(math.isnan, values)):
        return ""
    sort = "" if signature.feature == "order" else "got.sort(reverse=True)\n"
    return (
        f"{claim.call}\nentries = {name}[{row}].tolist()\n"
        "chosen = [column for column in entries if 0 <= column < logits.shape[1]]\n"
        f"got, want = [logits[{row}, column].item() for column in chosen], {sorted(values, reverse=True)}\n{sort}"
        f'print(f"row {row} chose {{entries}}, with the logits {{got}}; the largest are {{want}}")\n'
        f"is_packed = entries == chosen + [-1] * ({len(columns)} - len(chosen))\n"
        "raise SystemExit(got != want or len(set(chosen)) < len(chosen) or not is_packed)\n"
    )


def _compare_element(claim: Claim) -> str:
    """The element that the finding names, with what it may be."""
    element = find_element(claim.stage, claim.finding, claim.launch)
    legal = read_legal(claim.finding.want, element.dtype) if element else None
    if element is None or legal is None or _seems_legal(claim.finding, element.dtype, legal):
        return ""
    shown = ":.9g" if element.dtype.is_floating_point else ""
    return (
        f"{claim.call}\ngot = {element.reading}.item()\n"
        f'print(f"{element.name} is {{got{shown}}}, must be {claim.finding.want}")\n'
        f"raise SystemExit(not {legal.condition})\n"
    )


def _seems_legal(finding: Record, dtype: torch.dtype, legal: Legal) -> bool:
    """Whether the value that was wrong passes for right, as -0 does for 0: then only bytes tell."""
    seen = read_value(finding.got, dtype)
    return seen is not None and legal.includes(seen)


def _compare_bytes(claim: Claim) -> str:
    """All bytes of the output that the finding is about."""
    launch, output = claim.launch, claim.finding.signature.output
    name = output if output in launch.names else launch.names[0]
    want = expression(raw(launch.results[launch.names.index(name)]))
    before, was = (f"before = raw({name})\n", "was {before[at]:#04x}, ") if name in launch.fills else ("", "")
    return (
        f"{before}{claim.call}\ngot, want = raw({name}), {want}\n"
        "wrong = (got != want).nonzero().tolist()\nif wrong:\n    at = tuple(wrong[0])\n"
        f'    print(f"byte {{list(at)}} of {name} {was}is {{got[at]:#04x}}, must be {{want[at]:#04x}}; "\n'
        '          f"{len(wrong)} are wrong")\n'
        "raise SystemExit(bool(wrong))\n"
    )


WRITERS: tuple[Callable[[Claim], str], ...] = (
    _expect_refusal,
    _expect_end,
    _compare_inputs,
    _compare_argument,
    _compare_selection,
    _compare_element,
    _compare_bytes,
)
"""In the order in which they are tried; each gives an empty text for what is none of its."""
