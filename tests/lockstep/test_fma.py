"""Fused multiply-adds against exact fractions, where one rounding and two differ too."""

from fractions import Fraction

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep
from indexfuzz.lockstep.arithmetic.fma import fma64, fma_of_halves, narrow_to_odd
from indexfuzz.lockstep.arithmetic.rounding import round_to_bf16


def fraction_fma(a, b, c):
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    try:
        return float(exact)
    except OverflowError:
        return float("inf") if exact > 0 else float("-inf")


def draw(generator, count, spread):
    return generator.standard_normal(count) * 2.0 ** generator.integers(-spread, spread, count)


@pytest.mark.parametrize("spread", [4, 60, 440, 1000])
def test_float64_has_one_rounding(spread):
    generator = np.random.default_rng(spread)
    with np.errstate(all="ignore"):
        a, b = draw(generator, 4000, min(spread, 1000)), draw(generator, 4000, min(spread, 1000))
        c = draw(generator, 4000, spread)
        c[::2] = -(a * b)[::2] * (1 + generator.integers(-2, 3, 2000) * 2.0**-52)
        c[~np.isfinite(c)] = 1.0
        twice = a * b + c
    found = fma64(a, b, c)
    wanted = np.array([fraction_fma(*operands) for operands in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)])
    assert np.array_equal(found, wanted)
    assert (twice != found).any()


def test_float64_of_what_is_no_usual_number():
    values = np.array(
        [0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, 5e-324, -5e-324, 1.7976931348623157e308, 2.0**-600]
    )
    a, b, c = (x.ravel() for x in np.meshgrid(values, values, values))
    found = fma64(a, b, c)
    with np.errstate(all="ignore"):
        twice_rounded = a * b + c
    for x, y, z, got, twice in zip(a, b, c, found, twice_rounded, strict=True):
        if np.isfinite([x, y, z]).all() and x and y:
            assert got == fraction_fma(x, y, z)
        else:
            assert np.array_equal(got, twice, equal_nan=True)
            assert np.isnan(got) or np.signbit(got) == np.signbit(twice)


@triton.jit
def _fused(a, b, c, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.fma(tl.load(a + i), tl.load(b + i), tl.load(c + i)))


def nearest(exact, dtype):
    """A fraction rounded once: the nearest of the neighbours of its float64, ties to an even code."""
    near = torch.tensor(float(exact), dtype=torch.float64).to(dtype)
    code = near.view(torch.int16)
    around = torch.stack([code - 1, code, code + 1]).view(dtype)
    around = [x for x in around if x.isfinite()]
    key = [(abs(Fraction(x.double().item()) - exact), x.view(torch.int16).item() & 1) for x in around]
    return around[key.index(min(key))]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_two_bytes_have_one_rounding(dtype):
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(1024, generator=generator).to(dtype) for _ in range(2))
    c = (torch.randn(1024, generator=generator) * 2.0 ** torch.randint(-20, 12, (1024,), generator=generator)).to(dtype)
    out = torch.zeros(1024, dtype=dtype)
    with Lockstep():
        _fused[(1,)](a, b, c, out, N=1024)
    for x, y, z, found in zip(a.double().tolist(), b.double().tolist(), c.double().tolist(), out, strict=True):
        assert found == nearest(Fraction(x) * Fraction(y) + Fraction(z), dtype)


def test_two_bytes_where_two_roundings_go_wrong():
    """1 + 2^-8 is the middle of two bf16 values; the 2^-30 beyond it decides, and fp32 has no room for that."""
    for nudge in (Fraction(1, 2**30), -Fraction(1, 2**30)):
        exact = Fraction(1) + Fraction(1, 256) + nudge
        x = fma_of_halves(*(np.array([v]) for v in (1.0, 1.0, 2.0**-8 + float(nudge))))
        assert narrow_to_odd(x).view(np.uint32)[0] & 1
        rounded = round_to_bf16(narrow_to_odd(x))[0]
        assert rounded == nearest(exact, torch.bfloat16).item()
    assert round_to_bf16(np.float32([1 + 2.0**-8 + 2.0**-30]))[0] == 1.0
