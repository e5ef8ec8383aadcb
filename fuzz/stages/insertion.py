"""Keys that one operation makes and inserts: their bytes in the cache, judged by what the keys may have been."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from indexfuzz.checks.cache import Tokens, check_insertion
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.core.stage_names import K_QUANT_CACHE, ROPE
from indexfuzz.reference import layout
from indexfuzz.reference.intervals import Interval
from indexfuzz.stages.base import Call
from indexfuzz.stages.operation import Mistakes, fewest_wrong, legal_rows, rope_or
from indexfuzz.stages.quantised import format_of, values_per_byte
from indexfuzz.stages.verdict import Verdict, width

TIE = 2.0**-20
"""A share by which a value in bf16 leaves a tie, and passes none: it is far less than the step of such values."""

EITHER = (1 - TIE, 1 + TIE)
"""Factors that take a tie to either side."""

A_STEP = (1 - 2.0**-7, 1 + 2.0**-7)
"""Factors that take a value in bf16 to the next one, or beyond."""


class Keys(NamedTuple):
    """Keys of some tokens of a step: `values` [n, D] before they are quantised, `rows` and `slots` int64 [n]."""

    values: Interval
    rows: Tensor
    slots: Tensor


def mistakes_of_quantisation(given: Call) -> Mistakes:
    """The mistakes that the conversion of scaled values to codes is known for; they are arguments of `check_keys`."""
    known: dict[str, tuple[str, dict[str, Any]]] = {
        "ties go to the smaller number": (K_QUANT_CACHE, {"nudges": (1 - TIE,)}),
        "ties go to the larger number": (K_QUANT_CACHE, {"nudges": (1 + TIE,)}),
    }
    if values_per_byte(given) > 1:
        known["the halves of a byte are swapped"] = (K_QUANT_CACHE, {"swapped": True})
    return known


def check_keys(
    keys: Keys,
    given: Call,
    cache: Tensor,
    guarantees: Guarantees,
    *,
    nudges: Sequence[float] = (),
    swapped: bool = False,
) -> Verdict:
    """Judge a cache after the insertion of keys, those of which nothing is known aside.

    With ``nudges`` a code may be that of its value times any of these factors; with ``swapped`` a byte has its high
    half first.

    Raises ValueError where the layout is not defined.
    """
    before = given.tensors["cache"]
    block_size, key_bytes = layout.page_shape(before)
    promised = layout.resolve(given.options["layout"], block_size)
    layout.check_defined(promised, block_size, key_bytes)
    x, rows, slots = keys
    known = torch.isfinite(x.low).all(1) & torch.isfinite(x.high).all(1)
    after = _without(cache, before, slots[~known], promised)
    x, rows, slots = x.rows(known), rows[known], slots[known]
    form = format_of(given, x.low.shape[1])
    if swapped:
        values, stored = layout.read_tokens(after, slots, promised)
        layout.write_tokens(after, slots, (values >> 4) | (values << 4), stored, promised)
    legal = legal_rows(Interval(*map(form.grouped, x)), given, guarantees, nudges=nudges)
    found = check_insertion(
        layout.pages(before),
        layout.pages(after),
        Tokens.at(slots, block_size, rows),
        legal,
        layout=promised,
        arrangements=layout.arrangements(block_size, key_bytes, after.device),
        form=form,
    )
    return Verdict((found,) if found else (), width=width(*legal.codes_under(legal.scales[..., 0])))


def wrong_codes(keys: Keys, given: Call, cache: Tensor, guarantees: Guarantees) -> Tensor | None:
    """Which codes of keys are wrong, bool [n, D]; None where other bytes changed or the scale alone is wrong.

    Codes may be those of the scale that is there, or of the largest of a key for all its groups: whoever takes that one
    has the key itself right.
    """
    before, slots = given.tensors["cache"], keys.slots
    promised = layout.resolve(given.options["layout"], before.shape[1])
    rest = _without(cache, before, slots, promised)
    values, stored = layout.read_tokens(cache, slots, promised)
    form = format_of(given, keys.values.low.shape[1])
    codes = form.read(values)
    legal, used = legal_rows(Interval(*map(form.grouped, keys.values)), given, guarantees), form.load(stored)
    used = torch.where(torch.isfinite(used) & (used > 0), used, legal.scales[..., 0])
    largest = legal.scales.view(len(slots), form.groups, -1).amax(1).repeat_interleave(form.groups, 0)
    wrong = fewest_wrong(form.grouped(codes), torch.cat([legal.scales, used.unsqueeze(-1), largest], -1), legal)
    wrong = wrong.view(codes.shape)
    return wrong if torch.equal(rest, before) and bool(wrong.any()) else None


def blame_by_place(keys: Keys, given: Call, cache: Tensor, guarantees: Guarantees, others: str) -> str:
    """The insertion where that is to blame, RoPE where its dims alone are wrong, or others."""
    wrong = wrong_codes(keys, given, cache, guarantees)
    if wrong is not None:
        return rope_or(others, wrong, given)
    return insertion_or(f"{others} or {ROPE}", keys, given, cache, guarantees)


def insertion_or(others: str, keys: Keys, given: Call, cache: Tensor, guarantees: Guarantees) -> str:
    """The insertion, whose codes are right; or others, too, where keys that are off by a step have such scales."""
    ends = torch.stack([end * factor for end in keys.values for factor in A_STEP])
    beside = keys._replace(values=Interval(ends.amin(0), ends.amax(0)))
    off = check_keys(beside, given, cache, guarantees).findings
    return K_QUANT_CACHE if off else f"{others} or {K_QUANT_CACHE}"


def _without(cache: Tensor, before: Tensor, slots: Tensor, promised: str) -> Tensor:
    """A copy of a cache in which some slots hold what they held before."""
    rest = cache.clone()
    layout.write_tokens(rest, slots, *layout.read_tokens(before, slots, promised), promised)
    return rest
