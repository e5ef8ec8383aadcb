"""Quantised rows: the scale must be one of the legal ones, and every code legal under the scale that was used."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.finding import Finding, complaint

CodesUnder = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Scales fp32 [n] -> the smallest and the largest legal code of every element, uint8 [n, D] each; all between is."""


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
    wrong = find_wrong_codes(got_codes, low, high, legal.fp8)
    if not bool(wrong.any()):
        return None
    codes = _Codes(got_codes, low, high, legal.fp8)
    return _complain_of_codes(values, codes, wrong, axes=(row, "dim"), names=(number, None))


def find_wrong_rows(got_codes: Tensor, got_scales: Tensor, legal: LegalRows) -> Tensor:
    """Which rows [n] have a scale that is not legal, or a code that is not under their own scale."""
    return ~is_legal_scale(got_scales, legal.scales) | find_wrong_codes(
        got_codes, *legal.codes_under(got_scales), legal.fp8
    ).any(-1)


def find_wrong_codes(got: Tensor, low: Tensor, high: Tensor, fp8: torch.dtype) -> Tensor:
    """Which codes do not lie between two legal ones, which may be one and the same tensor; all uint8 of one shape."""
    wrong = got != low
    if high is low:
        return wrong
    wrong &= got != high
    if bool(wrong.any()):
        wrong &= ~((_rank(got) > _rank(low)) & (_rank(got) < _rank(high)))
        if fp8 == torch.float8_e4m3fnuz:
            wrong |= (got == NEGATIVE_ZERO) & (low != NEGATIVE_ZERO) & (high != NEGATIVE_ZERO)
    return wrong


HAIR = 2.0**-16
"""What a scale may miss a power of two by, relatively, for reasons of its own."""

NEGATIVE_ZERO = 0x80
"""Which is the NaN of e4m3fnuz."""


def _rank(codes: Tensor) -> Tensor:
    """Codes in order of their values: -0 right below 0."""
    magnitude = (codes & 0x7F).short()
    return torch.where(codes >= NEGATIVE_ZERO, -1 - magnitude, magnitude)


def is_legal_scale(got: Tensor, allowed: Tensor) -> Tensor:
    """Which scales [n] are, bit for bit, among the allowed ones [n, m]."""
    return (describe.bits(got).unsqueeze(-1) == describe.bits(allowed)).any(-1)


def _complain_of_scale(
    output: str, got: Tensor, allowed: Tensor, wrong: Tensor, number: Sequence[int], row: str
) -> Finding:
    i = int(wrong.nonzero()[0])
    want = " or ".join(sorted({describe.text(s) for s in allowed[i]}))
    words = describe.summary(got, allowed[:, 0], wrong, (row,))
    words = replace(words, hint=_rounding(got[wrong], allowed[wrong]) or words.hint)
    detail = f"the scale of {row} {number[i]} is {describe.text(got[i])}, must be {want}; {words}"
    return complaint("code-mismatch", output, detail, (number[i],), describe.text(got[i]), want, hint=words.hint)


def _rounding(got: Tensor, allowed: Tensor) -> str:
    """Whether scales [n] are right but for a rounding to powers of two that was asked for, or was not."""
    power = _next_power(got)
    if bool((is_legal_scale(power, allowed) & (got < power * (1 - HAIR))).all()):
        return "right before it is rounded up to a power of two"
    if bool((got.unsqueeze(-1) == _next_power(allowed)).any(-1).all()):
        return "rounded up to a power of two, which is not asked for"
    return ""


def _next_power(scales: Tensor) -> Tensor:
    """The least power of two that is not less, of positive scales; zero, infinite and NaN stay."""
    mantissa, exponent = torch.frexp(scales)
    power = torch.ldexp(torch.where(mantissa == 0.5, 0.5, 1.0), exponent)
    return torch.where(torch.isfinite(scales) & (scales > 0), power, scales)


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
    return complaint("code-mismatch", output, detail, spoken, seen, want, hint=words.hint)


def code_text(code: Tensor, fp8: torch.dtype) -> str:
    """A code with its value, such as ``0x7e (448)``."""
    return f"0x{int(code):02x} ({float(code.reshape(1).view(fp8).float()):g})"


class Heads(NamedTuple):
    """Quantised heads: codes uint8 [T, H, D], and weights fp32 [T, H] that their scales were folded into."""

    codes: Tensor
    weights: Tensor


class _Trial(NamedTuple):
    """What one legal scale of each head would explain."""

    low: Tensor
    high: Tensor
    codes_wrong: Tensor
    smallest: Tensor
    largest: Tensor
    weights_wrong: Tensor

    def unexplained(self) -> Tensor:
        """Which heads it does not explain, bool [T, H]."""
        return self.weights_wrong | self.codes_wrong.any(-1)


def check_folded_weights(
    got: Heads, legal: LegalRows, weights_under: CodesUnder, before: Heads | None = None
) -> Finding | None:
    """Judge quantised heads, the outputs q_fp8 and q_weights, whose scale shows only in the weight it was folded into.

    ``weights_under`` gives the smallest and largest legal weight (fp64 [T, H]) of every head under a scale. A head is
    right if one legal scale explains its codes and its weight. ``before`` is what the memory of both held: if all that
    is wrong still holds it, it is "unwritten".
    """
    wrong = torch.ones_like(got.weights, dtype=torch.bool)
    trials = []
    for scale in legal.scales.unbind(-1):
        low, high = legal.codes_under(scale)
        smallest, largest = weights_under(scale)
        within = (got.weights >= smallest) & (got.weights <= largest)
        trial = _Trial(low, high, find_wrong_codes(got.codes, low, high, legal.fp8), smallest, largest, ~within)
        wrong &= trial.unexplained()
        if not bool(wrong.any()):
            return None
        trials.append(trial)
    # Blame by the scale that leaves fewest heads unexplained.
    best = min(trials, key=lambda trial: int(trial.unexplained().sum()))
    codes_wrong = best.codes_wrong & wrong.unsqueeze(-1)
    if bool(codes_wrong.any()):
        codes = _Codes(got.codes, best.low, best.high, legal.fp8)
        found = _complain_of_codes("q_fp8", codes, codes_wrong, axes=("token", "head", "dim"), names=(None, None, None))
    else:
        found = _complain_of_weights(got.weights, best, wrong)
    weights_wrong = torch.stack([trial.weights_wrong for trial in trials]).all(0)
    if before is None or not (
        describe.is_unchanged(got.codes, before.codes, codes_wrong)
        and describe.is_unchanged(got.weights, before.weights, weights_wrong)
    ):
        return found
    return replace(found, kind="unwritten", detail=f"never written: {found.detail}")


def _complain_of_weights(got: Tensor, best: _Trial, wrong: Tensor) -> Finding:
    """What is to be said of the folded weights of wrong heads whose codes are right."""
    index = describe.first(wrong)
    smallest, largest = float(best.smallest[index]), float(best.largest[index])
    want, seen = f"in [{smallest:.9g}, {largest:.9g}]", describe.text(got[index])
    axes = ("token", "head")
    words = describe.summary(got, (best.smallest + best.largest) / 2, wrong, axes)
    detail = f"the folded weight of {describe.place(index, axes)} is {seen}, must be {want}; {words}"
    return complaint("bound-exceeded", "q_weights", detail, index, seen, want, hint=words.hint)
