"""Value regimes: what the numbers of one tensor look like.

Each regime is within every kernel's contract (but `nonfinite`, which is drawn only on request) and made of exact
operations only, so that the same case gives the same bits everywhere. Rows are tokens, or (token, head) pairs; the
magic numbers of a row (where its largest element sits, its exponent) come from a key of their own.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from indexfuzz.core.case_parts import Regime
from indexfuzz.core.rng import below, bits, derive, lanes_summed
from indexfuzz.reference import fp8 as codec
from indexfuzz.reference import nibbles

_ACTIVATIONS: tuple[Regime, ...] = (
    "normal",
    "exact",
    "ties",
    "saturation",
    "subnormal",
    "clamp",
    "outlier",
    "large",
    "tied",
    "zeros",
    "wide",
    "cancelling",
)
TENSORS: dict[str, tuple[Regime, ...]] = {
    "q": _ACTIVATIONS,
    "k": (*_ACTIVATIONS, "faint"),
    "weights": (*_ACTIVATIONS, "full"),
    "cache": ("normal", "exact", "saturation", "subnormal", "tied", "zeros", "wide"),
    "rope": ("normal", "exact", "zeros", "ties"),
}
"""The regimes that make sense for each tensor, within contract."""

BF16_ULP = 1 << 16
"""One unit in the last place of bf16, on the bits of a float32."""


def dense(regime: Regime, key: int, shape: tuple[int, int], fp8: str) -> Tensor:
    """Rows of q, k or weights: float32 [rows, columns]; q and k regimes are exact in bf16 up to one rounding.

    `fp8` names the format that the rows will be quantised to: ties and saturation aim at its steps.
    """
    return _DENSE[regime](key, shape, fp8)


def _normal(key: int, shape: tuple[int, int], _fp8: str) -> Tensor:
    """Sum of four 16-bit lanes, nearly Gaussian with deviation 0.58, times a power of two of the row's own."""
    centred = lanes_summed(bits(key, shape)) - 2 * 0xFFFF
    return centred.float() * (_row_scale(key, shape[0], 4) * 2.0**-16)


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent for int64 exponents of normal numbers, from the bits: torch.pow and ldexp may round."""
    return ((exponent + 127) << 23).int().view(torch.float32)


def _row_scale(key: int, rows: int, spread: int) -> Tensor:
    """[rows, 1] powers of two from 2^-spread to 2^spread."""
    exponent = below(bits(derive(key, "row"), (rows, 1)), 2 * spread + 1) - spread
    return power_of_two(exponent)


def _peak(key: int, shape: tuple[int, int]) -> Tensor:
    """Boolean [rows, columns]: the one column of each row that holds its largest element."""
    column = below(bits(derive(key, "peak"), (shape[0], 1)), max(shape[1], 1))
    return torch.arange(shape[1]) == column


def _exact(key: int, shape: tuple[int, int], _fp8: str) -> Tensor:
    """Integers of magnitude up to 7, each row with a 7 in it: every order of summation gives the same bits."""
    return torch.where(_peak(key, shape), 7.0, (below(bits(key, shape), 15) - 7).float())


def _ties(key: int, shape: tuple[int, int], fp8: str) -> Tensor:
    """Midpoints between FP8 neighbours and the bf16 values right beside them, in a row whose scale is a power of 2."""
    random = bits(key, shape)
    midpoints = _midpoints(fp8)
    chosen = codec.look_up(midpoints, below(random, len(midpoints))).view(torch.int32)
    beside = chosen + (random % 3).int() * BF16_ULP
    value = torch.where(random & 0x100 == 0, 1.0, -1.0) * beside.view(torch.float32)
    return torch.where(_peak(key, shape), codec.C[fp8], value) * _row_scale(key, shape[0], 2)


@cache
def _midpoints(fp8: str) -> Tensor:
    """The positive rounding midpoints of a format below C, float32."""
    midpoints = torch.tensor(nibbles.MIDPOINTS if fp8 == nibbles.NAME else codec.midpoints(fp8))
    return midpoints[(midpoints > 0) & (midpoints < codec.C[fp8])]


def _saturation(key: int, shape: tuple[int, int], fp8: str) -> Tensor:
    """Rows whose largest element is C * 2^j, or the bf16 value right below or above it."""
    top = torch.full((shape[0], 1), float(codec.C[fp8])).view(torch.int32)
    top = (top + (bits(derive(key, "step"), (shape[0], 1)) % 3).int() * BF16_ULP).view(torch.float32)
    small = (below(bits(key, shape), 255) - 127).float()
    return torch.where(_peak(key, shape), top, small) * _row_scale(key, shape[0], 3)


def _subnormal(key: int, shape: tuple[int, int], fp8: str) -> Tensor:
    """Elements in and around the subnormal range of FP8, under one large element that sets the scale."""
    small = (below(bits(key, shape), 511) - 255).float() * 2.0**-13
    return torch.where(_peak(key, shape), codec.C[fp8], small) * _row_scale(key, shape[0], 3)


def _clamp(key: int, shape: tuple[int, int], _fp8: str) -> Tensor:
    """Rows below the smallest amax: zeros, negative zeros, tiny values, and the bf16 neighbours of 1e-4."""
    kind = (bits(derive(key, "kind"), (shape[0], 1)) & 0x7FFFFFFF) % 4
    tiny = _exact(key, shape, "") * 2.0**-20
    near = torch.tensor(1e-4).bfloat16().float().view(torch.int32)
    near = (near + (bits(key, shape) % 2).int() * BF16_ULP).view(torch.float32)
    edge = torch.where(_peak(key, shape), near, tiny)
    return torch.where(kind == 0, 0.0, torch.where(kind == 1, -0.0, torch.where(kind == 2, tiny, edge)))


def _outlier(key: int, shape: tuple[int, int], fp8: str) -> Tensor:
    """One element a thousand times larger than the rest of its row."""
    value = _normal(key, shape, fp8)
    return torch.where(_peak(key, shape), value * 1024.0, value)


def _large(key: int, shape: tuple[int, int], fp8: str) -> Tensor:
    """Rows beyond the range of fp16, by up to 2^14; every product of them still is a normal fp32 number."""
    exponent = below(bits(derive(key, "large"), (shape[0], 1)), 15) + 17
    return _normal(key, shape, fp8) * power_of_two(exponent)


def _tied(key: int, shape: tuple[int, int], fp8: str) -> Tensor:
    """Every row the same, so that every score ties."""
    return _normal(key, (1, shape[1]), fp8).expand(shape)


SMALLEST, LARGEST = -133, 126
"""Exponents of the smallest bf16 number, a subnormal, and of the largest whose rotation still is finite."""


def _wide(key: int, shape: tuple[int, int], _fp8: str) -> Tensor:
    """Rows of all magnitudes that bf16 has, elements down to 2^-24 of the row's largest, and zeros of both signs.

    One row of eight holds the largest finite number, or the smallest, and nothing else.
    """
    random = bits(key, shape)
    top = below(bits(derive(key, "row"), (shape[0], 1)), LARGEST - SMALLEST + 1) + SMALLEST
    exponent = torch.where(_peak(key, shape), top, (top - below(random, 25)).clamp_min(SMALLEST))
    magnitude = _shifted(128 + (random & 0x7F), exponent - 7)
    magnitude = torch.where((random & 0x1F00) == 0, 0.0, magnitude)
    kind = below(bits(derive(key, "kind"), (shape[0], 1)), 16)
    alone = torch.where(kind == 0, torch.finfo(torch.bfloat16).max, 2.0**SMALLEST)
    magnitude = torch.where(kind > 1, magnitude, torch.where(_peak(key, shape), alone, 0.0))
    return torch.where(random & 0x80 == 0, magnitude, -magnitude)


def _shifted(integer: Tensor, exponent: Tensor) -> Tensor:
    """integer * 2^exponent as float32, for integers of up to 8 bits: exact, or cut to what subnormals hold."""
    cut = (-149 - exponent).clamp(0, 62)
    whole = (integer >> cut).double() * (torch.ones_like(exponent) << cut).double()
    return (whole * _power_of_two64(exponent)).float()


def _power_of_two64(exponent: Tensor) -> Tensor:
    """2^exponent as float64, from the bits."""
    return ((exponent + 1023) << 52).view(torch.float64)


def _cancelling(key: int, shape: tuple[int, int], _fp8: str) -> Tensor:
    """Neighbours of the same magnitude, equal or opposite by row, and one small element: sums of products cancel."""
    rows, columns = shape
    pairs = (below(bits(key, (rows, -(-columns // 2))), 15) - 7).float() * 32.0
    first, second = pairs, torch.where(bits(derive(key, "sign"), (rows, 1)) & 1 == 0, pairs, -pairs)
    value = torch.stack([first, second], dim=2).flatten(1)[:, :columns]
    return torch.where(_peak(key, shape), 1.0, value) * _row_scale(key, rows, 8)


def _faint(key: int, shape: tuple[int, int], fp8: str) -> Tensor:
    """Normal rows times one power of two, 2^-18 to 2^-10: most of their mean squares are near a norm's eps, or less."""
    exponent = below(bits(derive(key, "faint"), (1, 1)), 9) - 18
    return _normal(key, shape, fp8) * power_of_two(exponent)


def _full(key: int, shape: tuple[int, int], _fp8: str) -> Tensor:
    """Every number of fp32, all 24 bits of it, in rows of five kinds.

    Numbers of any magnitude side by side; subnormals and zeros; the ends of the range; neighbours that cancel, the
    largest that there are, around one number of any magnitude; and one of the largest beside normal ones so small that
    they are lost in every sum with it. Zeros have either sign.
    """
    rows, columns = shape
    kind = below(bits(derive(key, "kind"), (rows, 1)), 5)
    random, sign = bits(key, shape), bits(derive(key, "sign"), shape) & 1
    exponent, mantissa = below(bits(derive(key, "exponent"), shape), 255), random & 0x7FFFFF
    any_size = exponent << 23 | mantissa
    subnormal = mantissa >> below(bits(derive(key, "shorter"), shape), 24)
    end = codec.look_up(_ends(), below(random, len(_ends())))
    large = (below(bits(derive(key, "row"), (rows, 1)), 28) + 227) << 23
    pairs = bits(derive(key, "pair"), (rows, -(-columns // 2))) & 0x7FFFFF
    pair = large + pairs.repeat_interleave(2, 1)[:, :columns]
    column, lone = torch.arange(columns), _peak(key, shape)
    is_paired = (column // 2 != (column * lone).sum(1, keepdim=True) // 2) & (column < columns // 2 * 2)
    pair = torch.where(lone, any_size, torch.where(is_paired, pair, 0))
    apart = torch.where(lone, large, ((exponent >> 3) + 24) << 23) + mantissa
    kinds = torch.stack((any_size, subnormal, end, pair, apart))
    sign = torch.where(kind == 3, column & 1, sign)
    return (kinds[kind[:, 0], torch.arange(rows)] | sign << 31).to(torch.uint32).view(torch.float32)


@cache
def _ends() -> Tensor:
    """Bits of numbers at the ends: zero, the smallest, those beside the smallest normal one, and the largest.

    Between the largest of fp32 and that of bf16 lies where rounding to bf16 begins to overflow.
    """
    return torch.tensor([0, 1, 0x7FFFFF, 0x800000, 0x7F7F0000, 0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF])


def _zeros(_key: int, shape: tuple[int, int], _fp8: str) -> Tensor:
    return torch.zeros(shape)


def _nonfinite(key: int, shape: tuple[int, int], fp8: str) -> Tensor:
    """In one row of four, about one element in sixteen is NaN or an infinity."""
    random = below(bits(derive(key, "nonfinite"), shape), 64)
    random = torch.where(below(bits(derive(key, "kind"), (shape[0], 1)), 4) == 0, random, 63)
    value = _normal(key, shape, fp8)
    for lane, special in enumerate((float("nan"), float("inf"), float("-inf"))):
        value = torch.where(random == lane, special, value)
    return value


_DENSE: dict[Regime, Callable[[int, tuple[int, int], str], Tensor]] = {
    "normal": _normal,
    "exact": _exact,
    "ties": _ties,
    "saturation": _saturation,
    "subnormal": _subnormal,
    "clamp": _clamp,
    "outlier": _outlier,
    "large": _large,
    "tied": _tied,
    "zeros": _zeros,
    "wide": _wide,
    "cancelling": _cancelling,
    "faint": _faint,
    "full": _full,
    "nonfinite": _nonfinite,
}


def rope_table(regime: Regime, key: int, positions: int, rope_dim: int) -> Tensor:
    """Rows of cosines then sines: float32 [positions, rope_dim].

    `normal` draws rational points of the unit circle, (1 - t^2) / (1 + t^2) and 2t / (1 + t^2) in float64, in any
    quadrant. `exact` draws quarter turns, which rotate without rounding. `zeros` is the identity. `ties` turns by a
    sine of 2^-8 or 2^-9, half a unit of bf16: sums of a number and its partner end midway between two others.
    """
    shape = (positions, rope_dim // 2)
    random = bits(key, shape)
    quarter = random & 3
    if regime == "zeros":
        cos, sin = torch.ones(shape), torch.zeros(shape)
    elif regime == "exact":
        cos = torch.where(quarter == 0, 1.0, torch.where(quarter == 1, -1.0, 0.0))
        sin = torch.where(quarter == 2, 1.0, torch.where(quarter == 3, -1.0, 0.0))
    elif regime == "ties":
        cos = torch.where(quarter & 1 == 0, 1.0, -1.0)
        sin = torch.where(quarter & 2 == 0, 2.0**-8, -(2.0**-9))
    else:
        t = below(random, 1 << 20).double() * 2.0**-20
        cos, sin = ((1 - t * t) / (1 + t * t)).float(), (2 * t / (1 + t * t)).float()
        cos, sin = torch.where(quarter & 1 == 0, cos, -cos), torch.where(quarter & 2 == 0, sin, -sin)
    return torch.cat([cos, sin], dim=1)


@cache
def _codes(regime: Regime, fp8: str) -> Tensor:
    """The codes that a regime draws cached keys from, uint8: of an FP8 format, or the 16 of E2M1."""
    is_fp4 = fp8 == nibbles.NAME
    every = torch.arange(16 if is_fp4 else 256, dtype=torch.uint8)
    value = codec.decode(nibbles.widened(every), nibbles.WIDE) if is_fp4 else codec.decode(every, fp8)
    keep = {
        "exact": (value.abs() <= 7) & (value == value.round()) & (every != 0x80),
        "saturation": value.abs() == value[torch.isfinite(value)].max(),
        "subnormal": value.abs() <= (nibbles.MAGNITUDES[1] if is_fp4 else 2.0**-6),
        "zeros": every == 0,
        "nonfinite": torch.ones(len(every), dtype=torch.bool),
    }.get(regime, torch.isfinite(value))
    return every[keep if regime == "nonfinite" else keep & torch.isfinite(value)]


def cached_codes(regime: Regime, random: Tensor, fp8: str) -> Tensor:
    """Codes of cached keys, FP8 or "e2m1", from random bits int64 [slots, head_dim]: uint8 of the same shape."""
    codes = _codes(regime, fp8)
    chosen = codec.look_up(codes, below(random, len(codes)))
    return chosen[:1].expand_as(chosen) if regime == "tied" and len(chosen) else chosen


def cached_powers(regime: Regime, random: Tensor) -> Tensor:
    """Scales of cached keys that are kept as exponents, from random bits int64 [slots, groups]: powers of two.

    Of keys of the regime "wide", one in eight has the least exponent in all groups, 2^-127; beside others it is lost.
    """
    scales = cached_scales(regime, random, "ue8m0")
    least = random[:, :1] >> 32 & 7 == 0
    return torch.where(least, 2.0**-127, scales) if regime == "wide" else scales


def cached_scales(regime: Regime, random: Tensor, scale_fmt: str) -> Tensor:
    """Scales of cached keys from random bits int64 [slots]: float32, powers of two unless scale_fmt is fp32."""
    exponent = below(random, 120) - 22 if regime == "wide" else below(random, 9) - 10
    if regime in ("exact", "zeros", "tied"):
        exponent = torch.full_like(exponent, -3)
    mantissa = torch.ones(random.shape)
    if scale_fmt == "fp32" and regime not in ("exact", "zeros", "tied"):
        mantissa = 1 + (random & 0x7FFF).float() * 2.0**-15
    return mantissa * power_of_two(exponent)
