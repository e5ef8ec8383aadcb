"""Conversions over whole domains, against tables of representable values and torch.

Oracle: the magnitudes of a format are its non-negative codes in order, so the code nearest to x is the number of
midpoints below x, one more for a midpoint whose lower neighbour is odd. It shares nothing with the codec but the
published parameters of the formats.
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

from indexfuzz.lockstep.arithmetic.fp8_codec import decode_fp8, encode_fp8, truncate_to_e5m2
from indexfuzz.lockstep.arithmetic.rounding import round_to_bf16, round_to_fp16, truncate_to_bf16, truncate_to_fp16


@dataclass(frozen=True)
class Published:
    """Parameters of a format: fraction bits, bias, finite non-negative codes, and the codes of overflow and NaN."""

    fraction: int
    bias: int
    finite: int
    infinity: int
    nan: int
    zero_is_unsigned: bool


FORMATS = {
    "e4m3fn": Published(3, 7, 127, 0x7E, 0x7F, zero_is_unsigned=False),
    "e4m3fnuz": Published(3, 8, 128, 0x80, 0x80, zero_is_unsigned=True),
    "e4m3b11fnuz": Published(3, 11, 128, 0x80, 0x80, zero_is_unsigned=True),
    "e5m2": Published(2, 15, 124, 0x7B, 0x7F, zero_is_unsigned=False),
    "e5m2fnuz": Published(2, 16, 128, 0x80, 0x80, zero_is_unsigned=True),
}


def magnitudes(f: Published) -> list[Fraction]:
    """Value of every finite non-negative code, in order."""
    scale = 1 << f.fraction
    out = []
    for code in range(f.finite):
        field, fraction = divmod(code, scale)
        significand = Fraction(fraction, scale) + (field > 0)
        out.append(significand * Fraction(2) ** (max(field, 1) - f.bias))
    return out


def midpoints(f: Published) -> np.ndarray:
    table = magnitudes(f)
    exact = [(x + y) / 2 for x, y in pairwise(table)]
    rounded = np.array([float(x) for x in exact], np.float32)
    assert [Fraction(float(x)) for x in rounded] == exact
    return rounded


def oracle(x: np.ndarray, f: Published) -> np.ndarray:
    between = midpoints(f)
    magnitude = np.abs(x)
    code = np.searchsorted(between, magnitude, side="left")
    tie = (code < between.size) & (between[np.minimum(code, between.size - 1)] == magnitude)
    code = code + (tie & (code % 2 == 1))
    code = np.where(np.isinf(x), f.infinity, code)
    negative = np.signbit(x) & ~(f.zero_is_unsigned & (code == 0))
    code = np.where(negative, code | 0x80, code)
    return np.where(np.isnan(x), f.nan, code).astype(np.uint8)


def stratified_chunks():
    """2^24 fp32 values, one for each setting of the upper 24 bits, then all that lies near a midpoint or a code."""
    rng = np.random.default_rng(0)
    for start in range(0, 1 << 24, 1 << 20):
        upper = np.arange(start, start + (1 << 20), dtype=np.uint32) << 8
        yield (upper | rng.integers(0, 256, upper.size, dtype=np.uint32)).view(np.float32)
    centres = np.concatenate([midpoints(f) for f in FORMATS.values()])
    centres = np.concatenate(
        [centres, np.array([float(x) for f in FORMATS.values() for x in magnitudes(f)], np.float32)]
    )
    bits = (centres.view(np.uint32).astype(np.int64)[:, None] + np.arange(-3, 4)).ravel()
    near = bits[bits >= 0].astype(np.uint32).view(np.float32)
    yield np.concatenate([near, -near])
    halves = np.arange(1 << 16, dtype=np.uint32) << 16
    for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        yield (halves | np.uint32(low)).view(np.float32)


def same_bits(x: np.ndarray, y: np.ndarray) -> bool:
    nan = np.isnan(x)
    return np.array_equal(nan, np.isnan(y)) and np.array_equal(x.view(np.uint32)[~nan], y.view(np.uint32)[~nan])


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_bf16_and_fp16_value_encodes_right(fmt):
    words = np.arange(1 << 16, dtype=np.uint32)
    with np.errstate(invalid="ignore"):
        halves = words.astype(np.uint16).view(np.float16).astype(np.float32)
    for x in ((words << 16).view(np.float32), halves):
        assert np.array_equal(encode_fp8(x, fmt), oracle(x, FORMATS[fmt]))


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_code_decodes_right(fmt):
    f = FORMATS[fmt]
    values = decode_fp8(np.arange(256, dtype=np.uint8), fmt)
    for code, magnitude in enumerate(magnitudes(f)):
        assert Fraction(float(values[code])) == magnitude
        if code or not f.zero_is_unsigned:
            assert Fraction(float(values[code | 0x80])) == -magnitude
            assert np.signbit(values[code | 0x80])
    others = set(range(256)) - {
        c | s for c in range(f.finite) for s in (0, 0x80) if c | s != 0x80 or not f.zero_is_unsigned
    }
    infinite = {0x7C: np.inf, 0xFC: -np.inf} if fmt == "e5m2" else {}
    for code in others:
        if code in infinite:
            assert values[code] == infinite[code]
        else:
            assert values[code : code + 1].view(np.uint32)[0] == 0x7FFFFFFF


@pytest.mark.parametrize("fmt", FORMATS)
def test_2_to_24_stratified_floats_encode_right(fmt):
    count = 0
    for x in stratified_chunks():
        count += x.size
        got, expected = encode_fp8(x, fmt), oracle(x, FORMATS[fmt])
        wrong = np.flatnonzero(got != expected)
        assert not wrong.size, (x[wrong[0]], got[wrong[0]], expected[wrong[0]])
    assert count > 1 << 24


def test_2_to_24_stratified_floats_round_to_16_bits():
    for x in stratified_chunks():
        tensor = torch.from_numpy(x)
        assert same_bits(round_to_bf16(x), tensor.bfloat16().float().numpy())
        with np.errstate(all="ignore"):
            assert same_bits(round_to_fp16(x), x.astype(np.float16).astype(np.float32))


def test_truncation_is_the_nearest_value_not_further_from_zero():
    for x in stratified_chunks():
        small = x[:: 1 if x.size < 1 << 18 else 64]
        small = small[np.isfinite(small)]
        wide = small.astype(np.float64)
        for narrow, bits, lowest, largest in (
            (truncate_to_bf16(small), 8, -133, 2.0**128 - 2.0**120),
            (truncate_to_fp16(small), 11, -24, 65504.0),
            (decode_fp8(truncate_to_e5m2(small), "e5m2"), 3, -16, 57344.0),
        ):
            unit = np.ldexp(1.0, np.maximum(np.frexp(wide)[1] - bits, lowest))
            expected = np.clip(np.trunc(wide / unit) * unit, -largest, largest)
            assert np.array_equal(narrow, expected)
            assert np.array_equal(np.signbit(narrow), np.signbit(small))


@pytest.mark.parametrize(
    ("fmt", "dtype"),
    [
        ("e4m3fn", torch.float8_e4m3fn),
        ("e4m3fnuz", torch.float8_e4m3fnuz),
        ("e5m2", torch.float8_e5m2),
        ("e5m2fnuz", torch.float8_e5m2fnuz),
    ],
)
def test_codec_agrees_with_torch_below_overflow(fmt, dtype):
    codes = np.arange(256, dtype=np.uint8)
    assert same_bits(decode_fp8(codes, fmt), torch.from_numpy(codes).view(dtype).float().numpy())
    largest = float(magnitudes(FORMATS[fmt])[-1])
    for x in stratified_chunks():
        inside = x[::16][np.abs(x[::16]) <= largest]
        assert np.array_equal(encode_fp8(inside, fmt), torch.from_numpy(inside).to(dtype).view(torch.uint8).numpy())


@pytest.mark.parametrize(
    ("code", "bug"),
    [
        ("carry", lambda x: encode_fp8(np.where(np.abs(x) % 1 > 0.96, x / 2, x), "e4m3fn")),
        ("ties away", lambda x: encode_fp8(np.nextafter(x, np.copysign(np.float32(np.inf), x)), "e4m3fn")),
        ("truncation", lambda x: encode_fp8(np.nextafter(x, np.float32(0)), "e4m3fn")),
        ("no saturation", lambda x: np.where(np.abs(x) > 464, np.uint8(0x7F), encode_fp8(x, "e4m3fn"))),
        ("zero", lambda x: np.where(x == 0, np.uint8(0x28), encode_fp8(x, "e4m3fn"))),
    ],
)
def test_the_oracle_sees_planted_bugs(code, bug):
    x = np.concatenate([midpoints(FORMATS["e4m3fn"]), np.array([0, 0.97, 1.97, 465, 480, 1e9], np.float32)])
    assert not np.array_equal(bug(x.astype(np.float32)).astype(np.uint8), oracle(x, FORMATS["e4m3fn"])), code
