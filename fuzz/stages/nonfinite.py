"""NaN and infinities, a class of values that is judged apart: where they are, and numbers in their place.

What a kernel makes of them is its own affair, but they must not spread: one in a row, token or page changes no bit of
another. What Triton's operators make of them on a GPU is known, and a project that promises as much is held to it: a
maximum ignores NaN, so that a row's scale comes from its numbers and a NaN dot product passes the ReLU as 0;
conversion to FP8 keeps NaN, and an infinity makes the scale infinite, its row's numbers 0 and itself NaN.
"""

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.reference import fp8, layout
from indexfuzz.reference.scales import finite

PLAIN_CODE = 0x40
"""A number for a NaN code: 2 in e4m3fn, 1 in e4m3fnuz."""


def may_be_nonfinite(case: Case) -> bool:
    """Whether a case has, or may have, values that are not finite."""
    values = case.values
    regimes = (values.q, values.k, values.weights, values.cache, values.rope)
    overrides = (float.fromhex(str(entry[-1])) for entries in values.set.values() for entry in entries)
    return "nonfinite" in regimes or any(x - x != 0 for x in overrides)


def replace_where(mask: Tensor | None, chosen: Tensor, otherwise: Tensor) -> Tensor:
    """``chosen`` where the mask says so; ``otherwise`` elsewhere, without a mask, and where their forms differ."""
    if mask is None or chosen.shape != otherwise.shape or chosen.dtype != otherwise.dtype:
        return otherwise
    first, second = (x.view(torch.uint8) if x.element_size() == 1 else x for x in (chosen, otherwise))
    return torch.where(mask, first, second).view(otherwise.dtype)


def has_nonfinite(x: Tensor) -> Tensor:
    """Which rows [...] of x [..., D] hold something else than numbers."""
    return ~torch.isfinite(x.float()).all(-1)


def spread(rows: Tensor, like: Tensor) -> Tensor:
    """A mask of rows [...] as one of all their elements [..., D]."""
    return rows.unsqueeze(-1).expand(like.shape)


def has_nan(x: Tensor) -> Tensor:
    """Which rows [...] of FP8 x [..., D] hold a NaN."""
    return _is_nan(x).any(-1)


def _is_nan(x: Tensor) -> Tensor:
    return torch.isnan(fp8.decode(fp8.codes(x), fp8.format_of(x)))


def numbers(x: Tensor) -> Tensor:
    """1 for everything that is no number; strides as they were, so that the very same binary runs."""
    out = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
    return out.copy_(torch.where(torch.isfinite(x), x, 1.0))


def fp8_numbers(x: Tensor, *, whole_rows: bool) -> Tensor:
    """FP8 x [..., D] without NaN: a number for each, or with ``whole_rows`` zeros for every row that holds one.

    A uint8 x has values of MXFP4, which are all numbers.
    """
    if x.dtype == torch.uint8:
        return x
    code = fp8.codes(x)
    plain = code * ~has_nan(x).unsqueeze(-1) if whole_rows else torch.where(_is_nan(x), PLAIN_CODE, code)
    out = torch.empty_strided(x.shape, x.stride(), dtype=torch.uint8, device=x.device)
    return out.copy_(plain).view(x.dtype)


def cache_numbers(
    cache: Tensor, layout_name: str, dtype: torch.dtype, scale_dtype: torch.dtype, *, whole_rows: bool
) -> Tensor:
    """A cache of keys, FP8 or uint8, without NaN codes and with finite scales of a dtype, in unowned slots, too."""
    slots = torch.arange(len(cache) * cache.shape[1], device=cache.device)
    concrete = layout.resolve(layout_name, cache.shape[1])
    values, scales = layout.read_tokens(cache, slots, concrete)
    out = torch.empty_strided(cache.shape, cache.stride(), dtype=cache.dtype, device=cache.device)
    keys = fp8_numbers(values.view(dtype), whole_rows=whole_rows).view(torch.uint8)
    layout.write_tokens(out, slots, keys, finite(scales.view(scale_dtype)), concrete)
    return out
