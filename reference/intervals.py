"""What several steps in a row may make of their inputs, where nothing between them is observed: an interval each.

Every step maps intervals to intervals: what it makes of any value of the one lies in the other. A rounding is monotone,
so it maps the ends. An exact value is an interval whose ends are equal.
"""

from math import ceil, log2
from typing import NamedTuple

import torch
from torch import Tensor

from indexfuzz.reference import fp8 as codec
from indexfuzz.reference.arithmetic import PORTABLE, Arithmetic, U
from indexfuzz.reference.legal import legal_codes, legal_rope, powers_of_two
from indexfuzz.reference.rope import cos_sin, pairs

TINY = 2.0**-120
"""Absolute error of anything: what is flushed to zero, and more. No FP8 code of a legal scale sees it."""

RSQRT_ERROR = 2.0**-22
"""Relative error of a reciprocal square root: rsqrt.approx of PTX has 2^-22.4."""

OVERFLOW = 1e37
"""From here on sums of squares may overflow fp32."""


class Interval(NamedTuple):
    """The values from `low` to `high`, fp64 of one shape."""

    low: Tensor
    high: Tensor

    @classmethod
    def exact(cls, x: Tensor) -> "Interval":
        """One value each."""
        return cls(x.double(), x.double())

    def middle(self) -> Tensor:
        """Halfway between the ends, fp32; 0 where they are infinite."""
        return ((self.low + self.high) / 2).nan_to_num(0.0).float()

    def rows(self, index: Tensor) -> "Interval":
        """Some rows, by a bool or int64 index of the first dim."""
        return Interval(self.low[index], self.high[index])


def normalised(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Interval:
    """LayerNorm of the rows of x [T, D], with weight and bias [D], in fp32: [T, D].

    (x - m) * rsqrt(v + eps) * weight + bias with m = sum(x)/D and v = sum((x - m)^2)/D in two passes, in any order of
    summation: (D + 4) u of the sum of magnitudes. An error of the mean moves the variance by its square. Where squares
    may overflow nothing is known: the ends are infinite.
    """
    values, w, b = x.double(), weight.double(), bias.double()
    dims = x.shape[1]
    gamma = (dims + 4) * U
    mean = values.mean(1, keepdim=True)
    of_mean = gamma * values.abs().mean(1, keepdim=True)
    centred = values - mean
    off = of_mean + U * (centred.abs() + of_mean)
    variance = centred.square().mean(1, keepdim=True)
    smallest = variance * (1 - gamma - 4 * U)
    largest = (variance + of_mean.square()) * (1 + gamma + 4 * U)
    eps = float(torch.tensor(eps, dtype=torch.float32))
    factor = Interval(
        ((largest + eps) * (1 + 2 * U)).rsqrt() * (1 - RSQRT_ERROR),
        ((smallest + eps) * (1 - 2 * U)).rsqrt() * (1 + RSQRT_ERROR),
    )
    scaled = times(times(Interval(centred - off, centred + off), factor), Interval(w, w))
    magnitude = torch.maximum(scaled.low.abs(), scaled.high.abs())
    error = 5 * U * (magnitude + b.abs()) + TINY
    overflows = 4 * dims * values.abs().amax(1, keepdim=True).square() > OVERFLOW
    return Interval(
        torch.where(overflows, float("-inf"), scaled.low + b - error),
        torch.where(overflows, float("inf"), scaled.high + b + error),
    )


def rms_normalised(x: Interval, weight: Tensor, eps: float) -> Interval:
    """RMSNorm of the values x [n, D] with weight [D], in fp32: [n, D].

    x * rsqrt(v + eps) * weight with v = sum(x^2)/D, in any order of summation: (D + 2) u of v. Where squares may
    overflow nothing is known: the ends are infinite.
    """
    dims, w = x.low.shape[-1], weight.double()
    largest = torch.maximum(x.low.abs(), x.high.abs())
    straddles = (x.low <= 0) & (x.high >= 0)
    smallest = torch.where(straddles, 0.0, torch.minimum(x.low.abs(), x.high.abs()))
    gamma = (dims + 4) * U
    eps = float(torch.tensor(eps, dtype=torch.float32))
    factor = Interval(
        ((largest.square().mean(-1, keepdim=True) * (1 + gamma) + eps) * (1 + 2 * U)).rsqrt() * (1 - RSQRT_ERROR),
        ((smallest.square().mean(-1, keepdim=True) * (1 - gamma) + eps) * (1 - 2 * U)).rsqrt() * (1 + RSQRT_ERROR),
    )
    scaled = times(times(x, factor), Interval(w, w))
    error = 3 * U * torch.maximum(scaled.low.abs(), scaled.high.abs()) + TINY
    overflows = ~(2 * dims * largest.amax(-1, keepdim=True).square() <= OVERFLOW)
    return Interval(
        torch.where(overflows, float("-inf"), scaled.low - error),
        torch.where(overflows, float("inf"), scaled.high + error),
    )


def times(one: Interval, other: Interval) -> Interval:
    """The exact products of two intervals."""
    ends = torch.stack([end * factor for end in one for factor in other])
    return Interval(ends.amin(0), ends.amax(0))


def rotated_exactly(
    x: Tensor,
    positions: Tensor,
    cos_sin_cache: Tensor,
    *,
    rope_dim: int,
    style: str,
    placement: str,
    products: str = "fp32",
) -> Interval:
    """RoPE of x [T, ..., D] in fp32: from the smallest to the largest of its legal results."""
    candidates = legal_rope(
        x,
        positions,
        cos_sin_cache,
        rope_dim=rope_dim,
        style=style,
        placement=placement,
        dtype=torch.float32,
        products=products,
    ).double()
    return Interval(candidates.amin(0), candidates.amax(0))


def rotated(
    x: Interval,
    positions: Tensor,
    cos_sin_cache: Tensor,
    *,
    rope_dim: int,
    style: str,
    placement: str,
    products: str = "fp32",
) -> Interval:
    """RoPE of the values x [T, D] in fp32: two roundings of products and one of the sum.

    With ``products`` "bf16" these are roundings to bf16, which are monotone; with "unknown" they may be of either kind.
    """
    low, high = x.low.clone(), x.high.clone()
    cos, sin = (part.double().squeeze(1) for part in cos_sin(positions, cos_sin_cache))
    (a_low, b_low), (a_high, b_high) = (
        pairs(end, rope_dim=rope_dim, style=style, placement=placement) for end in (x.low, x.high)
    )
    (low_a, low_b), (high_a, high_b) = (
        pairs(end, rope_dim=rope_dim, style=style, placement=placement) for end in (low, high)
    )
    a, b, c = Interval(a_low, a_high), Interval(b_low, b_high), Interval(cos, cos)
    for out_low, out_high, first, second, s in ((low_a, high_a, a, b, -sin), (low_b, high_b, b, a, sin)):
        ac, bs = times(first, c), times(second, Interval(s, s))
        size = sum(torch.maximum(part.low.abs(), part.high.abs()) for part in (ac, bs))
        error = 3 * U * (1 + 2 * U) * size + TINY
        smallest, largest = ac.low + bs.low - error, ac.high + bs.high + error
        if products != "fp32":
            ac, bs = rounded(ac, "bf16"), rounded(bs, "bf16")
            narrow = rounded(Interval(ac.low + bs.low, ac.high + bs.high), "bf16")
            only = products == "bf16"
            smallest = narrow.low if only else torch.minimum(smallest, narrow.low)
            largest = narrow.high if only else torch.maximum(largest, narrow.high)
        out_low.copy_(torch.where(smallest.isnan(), float("-inf"), smallest))
        out_high.copy_(torch.where(largest.isnan(), float("inf"), largest))
    return Interval(low, high)


def rounded(x: Interval, to: str, stored: torch.dtype = torch.bfloat16) -> Interval:
    """What is left of fp32 values between two steps: "fp32" keeps them, "bf16" rounds them, "unknown" may do either.

    They are rounded to the dtype in which they are ``stored``: that of activations, which is bf16 unless they have
    another one.
    """
    if to == "fp32" or stored == torch.float32:
        return x
    low, high = (end.float().to(stored).double() for end in x)
    return Interval(low, high) if to == "bf16" else Interval(torch.minimum(low, x.low), torch.maximum(high, x.high))


def scales_between(x: Interval, *, fp8: str, arithmetic: Arithmetic = PORTABLE) -> Tensor:
    """Every legal UE8M0 scale of the rows of x [..., D]: fp32 [..., n], with repetitions."""
    largest = arithmetic.largest or codec.C[fp8]
    straddles = (x.low <= 0) & (x.high >= 0)
    nearest = torch.where(straddles, 0.0, torch.minimum(x.low.abs(), x.high.abs()))
    farthest = torch.maximum(x.low.abs(), x.high.abs())
    ends = [size.amax(-1).float().clamp_min(arithmetic.amax_floor) for size in (nearest, farthest)]
    first = powers_of_two(ends[0], largest, arithmetic).amin(-1)
    last = powers_of_two(ends[1], largest, arithmetic).amax(-1)
    ratio = (last.double() / first.double()).nan_to_num(1.0)
    steps = ceil(log2(float(ratio[torch.isfinite(ratio)].max()))) if bool(torch.isfinite(ratio).any()) else 0
    powers = first.unsqueeze(-1) * codec.power_of_two(torch.arange(steps + 1, device=first.device)).float()
    return torch.cat([torch.minimum(powers, last.unsqueeze(-1)), last.unsqueeze(-1)], -1)


def codes_between(x: Interval, scale: Tensor, *, fp8: str, arithmetic: Arithmetic = PORTABLE) -> tuple[Tensor, Tensor]:
    """The smallest and the largest legal code of x [..., D] under a scale [...], uint8 [..., D] each.

    Zeros of both signs are one value, where the format has both.
    """
    low, _ = legal_codes(x.low.float(), scale, fp8=fp8, arithmetic=arithmetic)
    _, high = legal_codes(x.high.float(), scale, fp8=fp8, arithmetic=arithmetic)
    if fp8 == "e4m3fn":
        low, high = torch.where(low == 0, 0x80, low), torch.where(high == 0x80, 0, high)
    return low.to(torch.uint8), high.to(torch.uint8)


def hadamard(x: Interval) -> Interval:
    """The Walsh-Hadamard transform of the rows of x [..., D], over sqrt(D), in fp32: [..., D]; D is a power of two.

    In the order of Sylvester: element j is the sum of all x[i], negative where i & j has an odd number of ones. Sums in
    any order have D u of the sum of magnitudes, the factor and the product with it 2 u. Where sums may overflow nothing
    is known: the ends are infinite.
    """
    dims = x.low.shape[-1]
    signs = torch.ones(1, 1, dtype=torch.double, device=x.low.device)
    while len(signs) < dims:
        signs = torch.cat([torch.cat([signs, signs], 1), torch.cat([signs, -signs], 1)])
    matrix = signs / dims**0.5
    magnitude = torch.maximum(x.low.abs(), x.high.abs()).sum(-1, keepdim=True)
    middle, radius = (x.low + x.high) / 2, (x.high - x.low) / 2
    error = radius.sum(-1, keepdim=True) / dims**0.5 + (dims + 4) * U * magnitude / dims**0.5
    error = torch.where(magnitude > 0, error + TINY, 0.0)
    centre, overflows = middle @ matrix, ~(magnitude <= torch.finfo(torch.float32).max / 2)
    return Interval(
        torch.where(overflows, float("-inf"), centre - error), torch.where(overflows, float("inf"), centre + error)
    )
