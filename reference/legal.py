"""The sets of scales, codes and rotated values that a correct kernel may produce.

Each formula is the closure of the operation over what compilers and division instructions do, so that a result
outside its set is wrong on every machine that the arithmetic contract covers, and two legal results need not be
equal.
"""

from math import log

import torch
from torch import Tensor

from indexfuzz.reference import fp8 as codec
from indexfuzz.reference.arithmetic import PORTABLE, Arithmetic, U
from indexfuzz.reference.quant import encode, fold, row_amax
from indexfuzz.reference.rope import cos_sin, pairs

FOLD_ROUNDINGS = 6
"""weights * s * D^-0.5 * H^-0.5: three products, two rounded constants, one to spare for a constant made of both."""


def legal_scales(x: Tensor, *, scale_fmt: str, fp8: str, arithmetic: Arithmetic = PORTABLE) -> Tensor:
    """Every legal scale of each row of x [..., D]: fp32 [..., n], with repetitions where there are fewer than n."""
    amax = row_amax(x, arithmetic.amax_floor)
    largest = arithmetic.largest or codec.C[fp8]
    if scale_fmt == "ue8m0":
        return powers_of_two(amax, largest, arithmetic)
    c = torch.full_like(amax, largest)
    ieee, reciprocal = amax / c, amax * (1 / c)
    choice = arithmetic.amax_division
    if choice == "unknown":
        # 3u is at most 3 ulps: all the floats within them.
        steps = torch.arange(-3, 4, device=x.device, dtype=torch.int32)
        near = (ieee.unsqueeze(-1).view(torch.int32) + steps).view(torch.float32)
        exact = amax.double().unsqueeze(-1) / largest
        within = (near.double() - exact).abs() <= 3 * U * (1 + U) * exact * (1 + 2.0**-50) + 2.0**-149
        return torch.where(within, near, ieee.unsqueeze(-1))
    return torch.stack({"ieee": [ieee], "reciprocal": [reciprocal]}.get(choice, [ieee, reciprocal]), -1)


def powers_of_two(amax: Tensor, largest: float, arithmetic: Arithmetic) -> Tensor:
    """Smallest 2**k >= amax/C, and its neighbour where log2 and division may err across a power of two.

    ceil(log2(amax/C)) comes out one too small when amax/C lies above 2**(k-1) by less than log2 and the division
    resolve: w = (2L + 1) ln2 2**(floor(log2 |k-1|) - 24) relative, 4u for the division. That takes an fp32 amax: one
    from bf16 is 2**-8 away from every C * 2**k that it does not equal.
    """
    ratio = amax.double() / largest
    finite = torch.isfinite(ratio)
    ratio = torch.where(finite, ratio, 1.0)
    k = codec.ceil_log2(ratio)
    smallest = codec.power_of_two(k)
    below = smallest / 2
    exponent = torch.frexp((k - 1).abs().clamp_min(1).double()).exponent.long() - 1
    window = (2 * arithmetic.log2_ulps + 1) * log(2) * codec.power_of_two(exponent - 24) + 4 * U
    found = [smallest, torch.where(ratio <= below * (1 + window), below, smallest)]
    if not arithmetic.log2_exact_at_powers:
        found.append(torch.where(ratio == smallest, smallest * 2, smallest))
    return torch.where(finite.unsqueeze(-1), torch.stack(found, -1), float("inf")).float()


def legal_codes(x: Tensor, scale: Tensor, *, fp8: str, arithmetic: Arithmetic = PORTABLE) -> tuple[Tensor, Tensor]:
    """Legal codes of x [..., D] under the scale [...] that was used: two uint8 [..., D], equal where only one is legal.

    For "e2m1" they are those of e4m3fn, as `quant.encode` has them.

    The relative error of a quotient is far below the spacing of FP8 values, so no element has a third. A scale that
    is a power of two leaves one: every division by it is exact.
    """
    x, s = x.float(), scale.unsqueeze(-1)
    if arithmetic.quotient_error:
        exact = x.double() / s.double()
        error = arithmetic.quotient_error * (1 + 2.0**-20)
        power = torch.frexp(s.double()).mantissa == 0.5
        spread = torch.where(power, 0.0, error)
        first, second = exact * (1 - spread), exact * (1 + spread)
    else:
        first = x * (1 / s) if arithmetic.division == "reciprocal" else x / s
        second = x * (1 / s) if arithmetic.division == "portable" else first
    if arithmetic.conversion == "f16-then-rne":
        first, second = _cut_to_f16(first), _cut_to_f16(second)
    low = encode(first, fp8)
    return low, low if torch.equal(first, second) else encode(second, fp8)


def _cut_to_f16(x: Tensor) -> Tensor:
    """Finite values within the fp16 range, cut toward zero to its 11 significant bits and 2**-24."""
    x = x.double()
    exponent = torch.frexp(x).exponent.long() - 1
    quantum = codec.power_of_two(exponent.clamp_min(-14) - 10)
    return torch.trunc(x / quantum) * quantum


def legal_weights(
    weights: Tensor, scale: Tensor, *, num_heads: int, head_dim: int, arithmetic: Arithmetic = PORTABLE
) -> tuple[Tensor, Tensor]:
    """Smallest and largest legal q_weights = weights * s * D^-0.5 * H^-0.5, as fp64 of the broadcast shape.

    The four factors may be multiplied in any order. Where one order can overflow fp32 the interval is infinite; none
    can where no factor is above 1.
    """
    exact = fold(weights, scale, num_heads=num_heads, head_dim=head_dim)
    relative = (1 + U) ** (FOLD_ROUNDINGS + arithmetic.extra_roundings) - 1 + 2.0**-50
    bound = exact.abs() * relative + FOLD_ROUNDINGS * 2.0**-126 * (1 + scale.double())
    grows = torch.where(scale > 1, scale.double() * (1 + 2.0**-10), 1 + arithmetic.extra_roundings * 2.0**-10)
    largest = weights.double().abs() * grows
    bound = torch.where(largest > torch.finfo(torch.float32).max, float("inf"), bound)
    return exact - bound, exact + bound


def legal_rope(
    x: Tensor,
    positions: Tensor,
    cos_sin_cache: Tensor,
    *,
    rope_dim: int,
    style: str,
    placement: str,
    dtype: torch.dtype | None = None,
    products: str = "fp32",
) -> Tensor:
    """Every legal result of rotating x [T, ..., D]: dtype [n, T, ..., D], with repetitions; dims not rotated stay.

    a*c - b*s in fp32 has three values: both products rounded, or either one kept exact by an fma. One rounding to
    ``dtype`` follows, that of x where it is not given; to fp32 it is none. With ``products`` "bf16" each
    product and the sum are rounded to bf16, which is one value; with "unknown" any of the four is legal.
    """
    rows = x if x.dim() == 3 else x.unsqueeze(1)
    make = {"fp32": _contractions, "bf16": _in_bf16}.get(products, _of_either)
    a, b = (half.float() for half in pairs(rows, rope_dim=rope_dim, style=style, placement=placement))
    cos, sin = cos_sin(positions, cos_sin_cache)
    first, second = make(a, cos, -b, sin), make(b, cos, a, sin)
    found = rows.to(dtype or x.dtype).unsqueeze(0).repeat(len(first), 1, 1, 1)
    out_a, out_b = pairs(found, rope_dim=rope_dim, style=style, placement=placement)
    out_a.copy_(first)
    out_b.copy_(second)
    return found.reshape(len(first), *x.shape)


def _contractions(a: Tensor, c: Tensor, b: Tensor, s: Tensor) -> Tensor:
    """The values that fp32 a*c + b*s takes with and without contraction to an fma, stacked."""
    ac, bs = a * c, b * s
    return torch.stack([ac + bs, fma32(a, c, bs), fma32(b, s, ac)])


def _in_bf16(a: Tensor, c: Tensor, b: Tensor, s: Tensor) -> Tensor:
    """The fp32 value of a*c + b*s where each product and the sum are rounded to bf16: one, [1, ...].

    Through fp32, which has more than twice the bits: rounding twice is rounding once.
    """
    return ((a * c).bfloat16().float() + (b * s).bfloat16().float()).bfloat16().float().unsqueeze(0)


def _of_either(a: Tensor, c: Tensor, b: Tensor, s: Tensor) -> Tensor:
    return torch.cat([_contractions(a, c, b, s), _in_bf16(a, c, b, s)])


def fma32(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The fp32 value of a * b + c with one rounding, for fp32 arguments."""
    product, addend = a.double() * b.double(), c.double()
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)
    # Rounding the fp64 sum to odd keeps the second rounding, to fp32, correct.
    bits = total.view(torch.int64)
    inexact = (error != 0) & torch.isfinite(total)
    step = torch.where((error > 0) == (total > 0), 1, -1)
    return torch.where(inexact & (bits % 2 == 0), bits + step, bits).view(torch.float64).float()
