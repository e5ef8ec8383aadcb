import math
import struct
from fractions import Fraction
from functools import cache

import pytest
import torch

from indexfuzz.reference import fp8

FORMATS = ["e4m3fn", "e4m3fnuz", "e5m2"]


def decode_by_definition(code: int, fmt: str) -> float:
    mantissa_bits, bias = {"e4m3fn": (3, 7), "e4m3fnuz": (3, 8), "e5m2": (2, 15)}[fmt]
    sign = -1.0 if code & 0x80 else 1.0
    exponent, mantissa = (code & 0x7F) >> mantissa_bits, code & ((1 << mantissa_bits) - 1)
    if fmt == "e4m3fn" and code & 0x7F == 0x7F:
        return math.nan
    if fmt == "e4m3fnuz" and code == 0x80:
        return math.nan
    if fmt == "e5m2" and exponent == 31:
        return math.nan if mantissa else sign * math.inf
    if exponent == 0:
        return sign * mantissa * 2.0 ** (1 - bias - mantissa_bits)
    return sign * (1 + mantissa / (1 << mantissa_bits)) * 2.0 ** (exponent - bias)


@cache
def finite_values(fmt: str) -> list[Fraction]:
    """Of the non-negative codes, in order."""
    values = [decode_by_definition(code, fmt) for code in range(128)]
    return [Fraction(v) for v in values if math.isfinite(v)]


def encode_by_search(x: float, fmt: str) -> int:
    """Nearest code by exact rational distance, ties to the even code, saturating."""
    if math.isnan(x):
        return 0x80 if fmt == "e4m3fnuz" else 0x7F
    if math.isinf(x) and fmt == "e4m3fnuz":
        return 0x80
    finite = finite_values(fmt)
    target = Fraction(min(abs(x), float(finite[-1])))
    best = min(range(len(finite)), key=lambda c: (abs(finite[c] - target), c % 2))
    if fmt == "e4m3fnuz" and best == 0:
        return 0
    return best | (0x80 if math.copysign(1, x) < 0 else 0)


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_code_decodes_by_definition(fmt: str) -> None:
    got = fp8.decode(torch.arange(256, dtype=torch.uint8), fmt).tolist()
    for code, value in enumerate(got):
        want = decode_by_definition(code, fmt)
        assert struct.pack("d", value) == struct.pack("d", want) or (math.isnan(value) and math.isnan(want)), code


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_finite_code_survives_a_round_trip(fmt: str) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    values = fp8.decode(codes, fmt)
    finite = torch.isfinite(values)
    assert torch.equal(fp8.encode(values[finite], fmt), codes[finite])


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("fmt", FORMATS)
def test_midpoints_and_their_neighbours_round_to_nearest_even(fmt: str, sign: float) -> None:
    points = [p for mid in fp8.midpoints(fmt) for p in (math.nextafter(mid, 0), mid, math.nextafter(mid, math.inf))]
    values = [sign * p for p in points]
    got = fp8.encode(torch.tensor(values, dtype=torch.float64), fmt).tolist()
    assert got == [encode_by_search(v, fmt) for v in values]


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("fmt", FORMATS)
def test_fp32_and_bf16_round_as_fp64_does(fmt: str, sign: float) -> None:
    """All bf16 values, and for fp32 the nearest two on either side of each midpoint and of each bf16 value's end."""
    every = torch.arange(1 << 16).to(torch.int32) << 16
    every = every[(every < 0) == (sign < 0)]
    middle = (torch.tensor(fp8.midpoints(fmt)) * sign).view(torch.int32)
    beside = torch.cat([x + d for x in (every, middle) for d in (-2, -1, 0, 1, 2)]).view(torch.float32)
    assert torch.equal(fp8.encode(beside, fmt), fp8.encode(beside.double(), fmt))
    exact = every.view(torch.float32)
    assert torch.equal(fp8.encode(exact.bfloat16(), fmt), fp8.encode(exact.double(), fmt))
    strided = exact.view(2, -1)[:, ::3]
    assert torch.equal(fp8.encode(strided, fmt), fp8.encode(strided.double(), fmt))


@pytest.mark.parametrize("fmt", FORMATS)
def test_random_values_agree_with_exact_search(fmt: str) -> None:
    generator = torch.Generator().manual_seed(1)
    exponent = torch.randint(-20, 18, (300,), generator=generator).double()
    values = torch.randn(300, generator=generator, dtype=torch.float64) * torch.exp2(exponent)
    assert fp8.encode(values, fmt).tolist() == [encode_by_search(v, fmt) for v in values.tolist()]


@pytest.mark.parametrize(
    ("fmt", "x", "code"),
    [
        ("e4m3fn", 448.0, 0x7E),
        ("e4m3fn", 1e30, 0x7E),
        ("e4m3fn", -math.inf, 0xFE),
        ("e4m3fn", math.nan, 0x7F),
        ("e4m3fn", -0.0, 0x80),
        ("e4m3fn", -(2.0**-11), 0x80),
        ("e4m3fn", 2.0**-10, 0x00),
        ("e4m3fnuz", 240.0, 0x7F),
        ("e4m3fnuz", 1e30, 0x7F),
        ("e4m3fnuz", -1e30, 0xFF),
        ("e4m3fnuz", math.inf, 0x80),
        ("e4m3fnuz", math.nan, 0x80),
        ("e4m3fnuz", -0.0, 0x00),
        ("e4m3fnuz", -(2.0**-12), 0x00),
        ("e4m3fnuz", -(2.0**-10), 0x81),
        ("e5m2", 57344.0, 0x7B),
        ("e5m2", 1e30, 0x7B),
        ("e5m2", -math.inf, 0xFB),
        ("e5m2", -0.0, 0x80),
    ],
)
def test_edges(fmt: str, x: float, code: int) -> None:
    assert fp8.encode(torch.tensor([x]), fmt).item() == code
    assert encode_by_search(x, fmt) == code


def test_powers_of_two_are_exact_and_ceil_log2_finds_them() -> None:
    k = torch.arange(-1022, 1024)
    powers = fp8.power_of_two(k)
    assert powers.tolist() == [math.ldexp(1.0, i) for i in range(-1022, 1024)]
    assert torch.equal(fp8.ceil_log2(powers), k)
    above = torch.tensor([math.nextafter(p, math.inf) for p in powers.tolist()[:-1]], dtype=torch.float64)
    assert torch.equal(fp8.ceil_log2(above), k[:-1] + 1)


def test_only_fp8_tensors_have_a_format() -> None:
    assert fp8.format_of(torch.zeros(1, dtype=torch.uint8).view(torch.float8_e4m3fnuz)) == "e4m3fnuz"
    with pytest.raises(ValueError, match="expected an FP8 tensor"):
        fp8.format_of(torch.zeros(1))
