"""Logits: first which of them are there, as a set; then each within its bound."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.finding import Finding, complaint

AXES = ("row", "column")

Alternative = Callable[[], tuple[Tensor, Tensor]]
"""Makes a reference and a bound, both fp64 [rows, columns]."""


@dataclass(frozen=True)
class Expected:
    """What logits [rows, columns] must be.

    `reference` and `bound` are fp64, `visible` is bool. A visible logit must lie within `bound` of its reference, which
    `tier` proves; where the bound is infinite anything is right. Every other must be -inf, or where `hidden_stay` what
    it was `before`, which tells unwritten elements from wrong ones.
    """

    reference: Tensor
    bound: Tensor
    visible: Tensor
    tier: str
    before: Tensor | None = None
    hidden_stay: bool = False

    @property
    def bounded(self) -> Tensor:
        """The logits that not just anything is right for."""
        return torch.isfinite(self.bound)


@dataclass(frozen=True)
class Alternatives:
    """Mistakes to name where one explains all visible logits.

    `layouts` maps a layout to the logits that reading the cache by it gives, `mistakes` a phrase such as "forgets the
    ReLU" to the logits of that mistake. `overflows` says that some mistake or other may have made infinities.
    """

    layouts: Mapping[str, Alternative] = field(default_factory=dict)
    mistakes: Mapping[str, Alternative] = field(default_factory=dict)
    overflows: bool = False


def check_logits(
    got: Tensor, expected: Expected, alternatives: Alternatives | None = None
) -> tuple[Finding | None, float]:
    """Judge logits fp32; returns what is wrong, or None, and the largest error as a share of its bound."""
    for check in (_check_written, _check_hidden, _check_shown):
        found = check(got, expected)
        if found is not None:
            return found, float("inf")
    beyond, ratio = _check_bounds(got, expected)
    return (_name_mistake(beyond, got, expected, alternatives or Alternatives()) if beyond else None), ratio


def _name_mistake(found: Finding, got: Tensor, expected: Expected, alternatives: Alternatives) -> Finding:
    nan_tells = not alternatives.overflows
    for name, make in alternatives.layouts.items():
        if _explains(make(), got, expected, nan_tells=nan_tells):
            detail = f"reads the {name.upper()} layout: {found.detail}"
            return replace(found, kind="layout-mismatch", detail=detail, layout=name)
    for phrase, make in alternatives.mistakes.items():
        if _explains(make(), got, expected, nan_tells=nan_tells):
            return replace(found, detail=f"{phrase}: {found.detail}", hint=phrase)
    return found


def _explains(other: tuple[Tensor, Tensor], got: Tensor, expected: Expected, *, nan_tells: bool) -> bool:
    """Whether a mistake explains every visible logit, and a wrong one by its value.

    One that reads memory nobody wrote makes NaN, which tells nothing where infinities may have met.
    """
    value, bound = other
    near = (got.double() - value).abs() <= bound
    nan = got.isnan() & value.isnan()
    right = (got.double() - expected.reference).abs() <= expected.bound
    telling = (near & torch.isfinite(bound)) | (nan & nan_tells)
    is_told = bool((telling & ~right & expected.visible & expected.bounded).any())
    return is_told and bool((near | nan | ~expected.visible).all())


def _check_written(got: Tensor, expected: Expected) -> Finding | None:
    """What must be written must not hold what it held before."""
    if expected.before is None:
        return None
    wrong = (describe.bits(got) == describe.bits(expected.before)) & expected.bounded
    if expected.hidden_stay:
        wrong &= expected.visible
    if not bool(wrong.any()):
        return None
    index = describe.first(wrong)
    want = "a logit" if bool(expected.visible[index]) else "-inf"
    detail = f"{describe.place(index, AXES)} was never written, must be {want}; {_where(wrong, torch.ones_like(wrong))}"
    return complaint("unwritten", "logits", detail, index, describe.text(got[index]), want)


def _check_hidden(got: Tensor, expected: Expected) -> Finding | None:
    """Columns that a row must not see."""
    hidden = ~expected.visible
    if expected.hidden_stay and expected.before is not None:
        right, must = describe.bits(got) == describe.bits(expected.before), "left as it was"
    else:
        right, must = got == float("-inf"), "-inf"
    wrong = ~right & hidden
    if not bool(wrong.any()):
        return None
    index = describe.first(wrong)
    row = index[0]
    window = expected.visible[row].nonzero().flatten().tolist()
    sees = f"columns {window[0]} to {window[-1]}" if window else "nothing"
    seen = describe.text(got[index])
    detail = (
        f"{describe.place(index, AXES)} holds {seen}, must be {must}: row {row} sees {sees}; "
        f"{_where(wrong, hidden)} of those not visible"
    )
    return complaint("mask-mismatch", "logits", detail, index, seen, must)


def _check_shown(got: Tensor, expected: Expected) -> Finding | None:
    """Columns that a row must see must not be masked away."""
    wrong = (got == float("-inf")) & expected.visible & expected.bounded
    if not bool(wrong.any()):
        return None
    index = describe.first(wrong)
    where = _where(wrong, expected.visible)
    detail = f"{describe.place(index, AXES)} is visible but holds -inf; {where} of those visible"
    return complaint("mask-mismatch", "logits", detail, index, "-inf", "a finite logit")


def _where(wrong: Tensor, judged: Tensor) -> str:
    words: Sequence[str] = (f"{int(wrong.sum())} of {int(judged.sum())} wrong", describe.extent(wrong, AXES, judged))
    return ", ".join(word for word in words if word)


def _check_bounds(got: Tensor, expected: Expected) -> tuple[Finding | None, float]:
    """Every visible logit within its bound, and the largest error as a share of it."""
    reference, bound, visible = expected.reference, expected.bound, expected.visible
    error = torch.where(visible & expected.bounded, (got.double() - reference).abs(), 0.0).nan_to_num(
        nan=float("inf"), posinf=float("inf")
    )
    ratio = torch.where(error == 0, 0.0, error / bound).nan_to_num(nan=float("inf"), posinf=float("inf"))
    wrong = error > bound
    largest = float(ratio.max()) if ratio.numel() else 0.0
    if not bool(wrong.any()):
        return None, largest
    index = describe.first(wrong)
    seen, allowed = describe.text(got[index]), float(bound[index])
    want = f"{float(reference[index]):.9g} +- {allowed:.3g}" if allowed else f"exactly {float(reference[index]):.9g}"
    words = describe.summary(got, reference, wrong, AXES, visible)
    detail = f"{describe.place(index, AXES)} is {seen}, must be {want} ({expected.tier}); {words}"
    found = complaint("bound-exceeded", "logits", detail, index, seen, want, tier=expected.tier, hint=words.hint)
    return found, largest
