"""Quantised rows: the scale must be one of the legal ones, and every code legal under the scale that was used."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.finding import Finding, complaint

CodesUnder = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Scales fp32 [n] -> the one or two legal codes of every element, uint8 [n, D] each."""


@dataclass(frozen=True)
class LegalRows:
    """What quantised rows [...] may be.

    `scales` fp32 [..., m] are the legal scales of each row; `codes_under` gives its legal codes under one of them;
    `fp8` is the dtype that the codes stand for.
    """

    scales: Tensor
    codes_under: CodesUnder
    fp8: torch.dtype


def check_rows(
    values: str,
    scales: str,
    got_codes: Tensor,
    got_scales: Tensor,
    legal: LegalRows,
    *,
    row: str = "token",
    names: Sequence[int] | None = None,
) -> Finding | None:
    """Judge n quantised rows with observed scales; ``values`` and ``scales`` name the two outputs.

    got_codes uint8 [n, D], got_scales fp32 [n]. The codes are judged under the observed scale where it is legal.
    ``names`` gives each row's number in the words of the caller, where that is not its index.
    """
    scale_ok = is_legal_scale(got_scales, legal.scales)
    number = list(names) if names is not None else list(range(len(got_scales)))
    if not bool(scale_ok.all()):
        return _complain_of_scale(scales, got_scales, legal.scales, ~scale_ok, number, row)
    low, high = legal.codes_under(got_scales)
    wrong = _neither(got_codes, low, high)
    if not bool(wrong.any()):
        return None
    codes = _Codes(got_codes, low, high, legal.fp8)
    return _complain_of_codes(values, codes, wrong, axes=(row, "dim"), names=(number, None))


def _neither(got: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Which codes are neither of the two legal ones, which may be one and the same tensor."""
    wrong = got != low
    return wrong if high is low else wrong & (got != high)


def is_legal_scale(got: Tensor, allowed: Tensor) -> Tensor:
    """Which scales [n] are, bit for bit, among the allowed ones [n, m]."""
    return (describe.bits(got).unsqueeze(-1) == describe.bits(allowed)).any(-1)


def _complain_of_scale(
    output: str, got: Tensor, allowed: Tensor, wrong: Tensor, number: Sequence[int], row: str
) -> Finding:
    i = int(wrong.nonzero()[0])
    want = " or ".join(sorted({describe.text(s) for s in allowed[i]}))
    words = describe.summary(got, allowed[:, 0], wrong, (row,))
    detail = f"the scale of {row} {number[i]} is {describe.text(got[i])}, must be {want}; {words}"
    return complaint("code-mismatch", output, detail, (number[i],), describe.text(got[i]), want)


class _Codes(NamedTuple):
    """Codes uint8 as they are, the one or two that are legal, and the dtype that they stand for."""

    got: Tensor
    low: Tensor
    high: Tensor
    fp8: torch.dtype


def _complain_of_codes(
    output: str, codes: _Codes, wrong: Tensor, *, axes: Sequence[str], names: Sequence[Sequence[int] | None]
) -> Finding:
    """What is to be said of codes whose ``wrong`` elements are none of the legal ones."""
    got, low, high, fp8 = codes
    index = describe.first(wrong)
    spoken = tuple(n[i] if n is not None else i for n, i in zip(names, index, strict=True))
    want = code_text(low[index], fp8)
    if int(low[index]) != int(high[index]):
        want = f"{want} or {code_text(high[index], fp8)}"
    seen = code_text(got[index], fp8)
    words = describe.summary(got.view(fp8).float(), low.view(fp8).float(), wrong, axes)
    detail = f"{describe.place(spoken, axes)} is {seen}, must be {want}; {words}"
    return complaint("code-mismatch", output, detail, spoken, seen, want)


def code_text(code: Tensor, fp8: torch.dtype) -> str:
    """A code with its value, such as ``0x7e (448)``."""
    return f"0x{int(code):02x} ({float(code.reshape(1).view(fp8).float()):g})"


def check_folded_weights(
    got_codes: Tensor, got_weights: Tensor, legal: LegalRows, weights_under: CodesUnder
) -> Finding | None:
    """Judge quantised heads, the outputs q_fp8 and q_weights, whose scale shows only in the weight it was folded into.

    got_codes uint8 [T, H, D], got_weights fp32 [T, H]. ``weights_under`` gives the smallest and largest legal weight
    (fp64) of every head under a scale. A head is right if one legal scale explains its codes and its weight.
    """
    axes = ("token", "head", "dim")
    explained = torch.zeros_like(got_weights, dtype=torch.bool)
    trials = []
    for scale in legal.scales.unbind(-1):
        low, high = legal.codes_under(scale)
        wrong = _neither(got_codes, low, high)
        smallest, largest = weights_under(scale)
        weight_ok = (got_weights >= smallest) & (got_weights <= largest)
        explained |= weight_ok & ~wrong.any(-1)
        if bool(explained.all()):
            return None
        trials.append((low, high, wrong, smallest, largest, weight_ok))
    # Blame by the scale that leaves fewest rows unexplained.
    _, chosen = min((int((~ok | wrong.any(-1)).sum()), i) for i, (_, _, wrong, _, _, ok) in enumerate(trials))
    low, high, wrong, smallest, largest, weight_ok = trials[chosen]
    codes_wrong = wrong & ~explained.unsqueeze(-1)
    if bool(codes_wrong.any()):
        codes = _Codes(got_codes, low, high, legal.fp8)
        return _complain_of_codes("q_fp8", codes, codes_wrong, axes=axes, names=(None, None, None))
    bad = ~weight_ok & ~explained
    index = describe.first(bad)
    want = f"in [{float(smallest[index]):.9g}, {float(largest[index]):.9g}]"
    words = describe.summary(got_weights, (smallest + largest) / 2, bad, axes[:2])
    seen = describe.text(got_weights[index])
    detail = f"the folded weight of {describe.place(index, axes[:2])} is {seen}, must be {want}; {words}"
    return complaint("bound-exceeded", "q_weights", detail, index, seen, want)
