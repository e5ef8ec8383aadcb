"""Which logits come out the same, bit for bit, of every legal order of evaluation (tier T0)."""

from functools import lru_cache

import torch
from torch import Tensor

from indexfuzz.reference import fp8 as codec
from indexfuzz.reference.arithmetic import Arithmetic

_NO_BITS = 1 << 12
"""Grid exponent of a tensor of zeros: coarser than anything that occurs."""

_LARGEST_PRODUCT = 2.0**18
"""No two finite FP8 values have a larger product: 448 times 448."""


def exact_logits(
    q_fp8: Tensor,
    k_fp8: Tensor,
    k_scale: Tensor,
    weights: Tensor,
    magnitude: Tensor,
    size: Tensor,
    arithmetic: Arithmetic,
) -> Tensor:
    """Where no legal evaluation of a logit rounds anything, bool [S, R, N].

    q_fp8 [S, R, H, D] and k_fp8 [S, N, D]; ``magnitude`` fp64 [S, R, H, N] the sum of |products| of each dot, ``size``
    fp64 [S, R, N] the sum over heads of |w| relu(dot). Per dot, all products are multiples of a grid g = 2**i, and
    magnitude / g fits the unit's bits; over heads, all terms are multiples of 2**j and their sum fits 24 bits; the key
    scale is a power of two; nothing underflows or overflows.
    """
    everywhere = torch.zeros_like(size, dtype=torch.bool)
    roundings = (arithmetic.weight_rounding, arithmetic.score_rounding, arithmetic.extra_roundings)
    if any(roundings) or not size.numel():
        return everywhere
    w = weights.double()
    w_grid = lowest_bit(w)
    scale_exponent = torch.frexp(k_scale.double()).exponent.long() - 1
    is_power = (k_scale.view(torch.int32) & 0x7FFFFF == 0) & (k_scale > 0) & torch.isfinite(k_scale)
    w_bits = torch.frexp(w.abs().amax(-1)).exponent.long() - w_grid.amin(-1)
    rows = w_bits <= 24
    if not (bool(is_power.any()) and bool(rows.any())):
        return everywhere
    q_grid, k_grid = (_lowest_bit_of_codes(x).amin(-1).long() for x in (q_fp8, k_fp8))
    # A dot on its grid: magnitude < 2**(bits + i), for every head. Scaling by powers of two is exact.
    per_q = codec.power_of_two(-(q_grid + arithmetic.dot.exact_bits).clamp_max(400)).unsqueeze(-1)
    k_limit = codec.power_of_two(k_grid.clamp_max(400)).unsqueeze(1)
    fits = (magnitude * per_q).amax(2) < k_limit
    # The terms over heads: multiples of 2**j.
    unit = (w_grid + q_grid).amin(-1, keepdim=True) + k_grid.unsqueeze(1)
    total_fits = size < codec.power_of_two((unit + 24).clamp(-1022, 1023))
    # No intermediate below the normal range, in whichever order weight, dot and scale are multiplied.
    dots = q_grid.amin(-1, keepdim=True) + k_grid.unsqueeze(1)
    smallest = torch.minimum(torch.minimum(unit, dots), w_grid.amin(-1, keepdim=True))
    smallest = smallest + scale_exponent.unsqueeze(1).clamp_max(0)
    # None far above it, likewise: a dot that a large scale makes infinite is no 0 where its weight is 0.
    largest = torch.maximum(size, w.abs().amax(-1, keepdim=True)).clamp_min(_LARGEST_PRODUCT * q_fp8.shape[-1])
    in_range = (smallest >= -126) & (largest * k_scale.double().clamp_min(1).unsqueeze(1) < 2.0**100)
    return fits & total_fits & in_range & is_power.unsqueeze(1) & rows.unsqueeze(-1)


def lowest_bit(x: Tensor) -> Tensor:
    """Exponent of the lowest set bit of each fp64 value, int64; huge for zeros. NaN and infinities give no promise."""
    mantissa, exponent = torch.frexp(x)
    integer = (mantissa * 2.0**53).nan_to_num().long()
    low = torch.frexp((integer & -integer).double()).exponent.long() - 1
    return torch.where(x == 0, _NO_BITS, exponent.long() - 53 + low)


def _lowest_bit_of_codes(x: Tensor) -> Tensor:
    """`lowest_bit` of the values of FP8 codes, int16."""
    return codec.look_up(_lowest_bit_table(codec.format_of(x), x.device), codec.codes(x))


@lru_cache(maxsize=16)
def _lowest_bit_table(fmt: str, device: torch.device) -> Tensor:
    every = torch.arange(256, dtype=torch.uint8, device=device)
    return lowest_bit(codec.decode(every, fmt, torch.float64)).to(torch.int16)
