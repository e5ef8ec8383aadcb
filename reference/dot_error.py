"""How far the dot of a matrix unit may lie from the exact one: any order of its sums, or the order that it takes."""

from functools import lru_cache
from math import ceil

import torch
from torch import Tensor

from indexfuzz.reference import fp8 as codec
from indexfuzz.reference.arithmetic import DotUnit, U
from indexfuzz.reference.mqa_logits import dot


def dot_error(q_fp8: Tensor, k_fp8: Tensor, magnitude: Tensor, unit: DotUnit) -> Tensor:
    """Largest error of each dot, [S, R, H, N]; q_fp8 [S, R, H, D], k_fp8 [S, N, D], ``magnitude`` sums |products|."""
    free = unit.relative_error(q_fp8.shape[-1]) * magnitude
    if not unit.in_order or magnitude.numel() == 0:
        return free
    return torch.minimum(free, _ordered_error(q_fp8, k_fp8, unit))


def _ordered_error(q_fp8: Tensor, k_fp8: Tensor, unit: DotUnit) -> Tensor:
    """Error of a truncating unit that takes its groups in order.

    Group g has products of largest exponent Q_g and ends at the exact prefix C_g. Its n products and the accumulator
    are each cut below U_g = max(Q_g, |C_{g-1}| + eps_{g-1}), the sum below itself:

        eps_g = eps' + 2**-O (|C_g| + eps'),   eps' = eps_{g-1} + (n + 1) U_g 2**-F
    """
    cut, narrow = 2.0**-unit.fraction_bits, 2.0**-unit.output_bits
    q, k = (codec.decode(codec.codes(x), codec.format_of(x), torch.float64) for x in (q_fp8, k_fp8))
    floors_q, floors_k = _floor_powers(q_fp8), _floor_powers(k_fp8)
    shape = (*q.shape[:3], k.shape[1])
    prefix, error = (torch.zeros(shape, dtype=torch.float64, device=q.device) for _ in range(2))
    for g in range(ceil(q.shape[-1] / unit.group)):
        part = slice(g * unit.group, (g + 1) * unit.group)
        largest = _largest_product(floors_q[..., part], floors_k[..., part])
        group = dot(q[..., part], k[..., part])
        if unit.promoted:
            own = (unit.group + 1) * cut * largest
            own = own + narrow * (group.abs() + own)
            prefix += group
            error += own
            error += U * (prefix.abs() + error)
        else:
            error += (unit.group + 1) * cut * torch.maximum(largest, prefix.abs() + error)
            prefix += group
            error += narrow * (prefix.abs() + error)
    return error


_SHARP = 16
"""Exponent p of the power mean in _largest_product; exact for groups of fewer than 2**p products."""


def _floor_powers(x: Tensor) -> Tensor:
    """2**(p * e) with e the (clamped) exponent of each value of an FP8 tensor; 0 for zeros and NaN."""
    return codec.look_up(_floor_power_table(codec.format_of(x), x.device), codec.codes(x))


@lru_cache(maxsize=16)
def _floor_power_table(fmt: str, device: torch.device) -> Tensor:
    value = codec.decode(torch.arange(256, dtype=torch.uint8, device=device), fmt, torch.float64)
    exponent = torch.frexp(value).exponent.long() - 1
    exponent = exponent.clamp_min(codec.FORMATS[fmt].min_exponent)
    return torch.where((value == 0) | ~torch.isfinite(value), 0.0, codec.power_of_two(exponent.clamp_max(15) * _SHARP))


def _largest_product(floors_q: Tensor, floors_k: Tensor) -> Tensor:
    """max_i 2**(e_i + f_i), exactly, as one matrix product.

    With m the largest exponent, sum_i 2**(p (e_i + f_i)) lies in [2**(p m), group * 2**(p m)].
    """
    total = dot(floors_q, floors_k)
    # The exponent field of a normal number holds its exponent + 1023.
    exponent = (total.view(torch.int64) >> 52).sub_(1023).div_(_SHARP, rounding_mode="floor")
    return codec.power_of_two(exponent).masked_fill_(total == 0, 0.0)
