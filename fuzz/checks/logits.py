"""Logits: first which of them are there, as a set; then each within its bound."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.finding import Finding, complaint

AXES = ("row", "column")

Alternative = Callable[[], tuple[Tensor, Tensor]]
"""Makes a reference and a bound, both fp64 [rows, columns]."""


def judge(
    output: str,
    got: Tensor,
    reference: Tensor,
    bound: Tensor,
    visible: Tensor,
    tier: str,
    *,
    poison: Tensor | None = None,
    untouched: Tensor | None = None,
    layouts: Mapping[str, Alternative] | None = None,
    explanations: Mapping[str, Alternative] | None = None,
) -> tuple[Finding | None, float]:
    """Judge logits fp32 [rows, columns]; returns what is wrong, or None, and the largest error as a share of its bound.

    ``reference`` and ``bound`` are fp64, ``visible`` is bool, all of the same shape. A visible logit must lie within
    ``bound`` of its reference; where the bound is infinite anything is right. Every other must be -inf, or, if
    ``untouched`` is given, hold that tensor's bits. ``poison`` is what the buffer held before: visible elements that
    still hold it are "unwritten".

    Two ways to name the mistake once a logit is beyond its bound: ``layouts`` maps a layout to the logits that
    reading the cache by it would give, ``explanations`` a phrase ("forgets the ReLU") to the logits of that mistake.
    """
    for found in (
        _unwritten(output, got, visible, bound, poison, untouched),
        _hidden(output, got, visible, untouched),
        _missing(output, got, visible, bound),
    ):
        if found is not None:
            return found, float("inf")
    beyond, ratio = _beyond(output, got, reference, bound, visible, tier)
    return (_named(beyond, got, visible, layouts or {}, explanations or {}) if beyond else None), ratio


def _named(
    found: Finding,
    got: Tensor,
    visible: Tensor,
    layouts: Mapping[str, Alternative],
    explanations: Mapping[str, Alternative],
) -> Finding:
    for name, make in layouts.items():
        if _fits(got, make(), visible):
            return replace(found, kind="layout-mismatch", detail=f"reads the {name.upper()} layout: {found.detail}")
    for phrase, make in explanations.items():
        if _fits(got, make(), visible):
            return replace(found, detail=f"{phrase}: {found.detail}")
    return found


def _fits(got: Tensor, other: tuple[Tensor, Tensor], visible: Tensor) -> bool:
    """Whether a mistake explains every visible logit; one that reads memory nobody wrote makes NaN."""
    value, bound = other
    same = ((got.double() - value).abs() <= bound) | (got.isnan() & value.isnan())
    return bool((same | ~visible).all())


def _unwritten(
    output: str, got: Tensor, visible: Tensor, bound: Tensor, poison: Tensor | None, untouched: Tensor | None
) -> Finding | None:
    if poison is None:
        return None
    same = describe.bits(got) == describe.bits(poison)
    wrong = same & torch.isfinite(bound) if untouched is None else same & torch.isfinite(bound) & visible
    if not bool(wrong.any()):
        return None
    index = describe.first(wrong)
    want = "a logit" if bool(visible[index]) else "-inf"
    detail = f"{describe.place(index, AXES)} was never written, must be {want}; {_where(wrong, torch.ones_like(wrong))}"
    seen = describe.text(got[index])
    return complaint("unwritten", output, detail, index, seen, want)


def _hidden(output: str, got: Tensor, visible: Tensor, untouched: Tensor | None) -> Finding | None:
    """Columns that a row must not see."""
    if untouched is None:
        right, must = got == float("-inf"), "-inf"
    else:
        right, must = describe.bits(got) == describe.bits(untouched), "left as it was"
    wrong = ~right & ~visible
    if not bool(wrong.any()):
        return None
    index = describe.first(wrong)
    row = index[0]
    window = visible[row].nonzero().flatten().tolist()
    sees = f"columns {window[0]} to {window[-1]}" if window else "nothing"
    seen = describe.text(got[index])
    detail = (
        f"{describe.place(index, AXES)} holds {seen}, must be {must}: row {row} sees {sees}; "
        f"{_where(wrong, ~visible)} of those not visible"
    )
    return complaint("mask-mismatch", output, detail, index, seen, must)


def _missing(output: str, got: Tensor, visible: Tensor, bound: Tensor) -> Finding | None:
    """Columns that a row must see but that were masked away."""
    wrong = (got == float("-inf")) & visible & torch.isfinite(bound)
    if not bool(wrong.any()):
        return None
    index = describe.first(wrong)
    detail = f"{describe.place(index, AXES)} is visible but holds -inf; {_where(wrong, visible)} of those visible"
    return complaint("mask-mismatch", output, detail, index, "-inf", "a finite logit")


def _where(wrong: Tensor, judged: Tensor) -> str:
    words: Sequence[str] = (f"{int(wrong.sum())} of {int(judged.sum())} wrong", describe.extent(wrong, AXES, judged))
    return ", ".join(word for word in words if word)


def _beyond(
    output: str, got: Tensor, reference: Tensor, bound: Tensor, visible: Tensor, tier: str
) -> tuple[Finding | None, float]:
    bounded = visible & torch.isfinite(bound)
    error = torch.where(bounded, (got.double() - reference).abs(), 0.0).nan_to_num(
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
    detail = f"{describe.place(index, AXES)} is {seen}, must be {want} ({tier}); {words}"
    return complaint("bound-exceeded", output, detail, index, seen, want, tier=tier), largest
