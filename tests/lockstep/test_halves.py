"""fp16 in bulk: the same numbers as numpy's, which converts and computes element by element."""

import numpy as np
import pytest

from indexfuzz.lockstep.arithmetic.halves import compute_halves, narrow_to_half, widen_half

EVERY = np.arange(1 << 16, dtype=np.uint16).view(np.float16)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of overflow and NaN


def same(a, b):
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True) and np.array_equal(np.signbit(a), np.signbit(b))


def numbers(x):
    return np.where(np.isnan(x), x.dtype.type(0), x)


def test_every_half_is_widened_as_numpy_does():
    assert same(numbers(widen_half(EVERY)), numbers(EVERY.astype(np.float32)))
    assert np.isnan(widen_half(EVERY)).sum() == np.isnan(EVERY).sum()


@pytest.mark.parametrize("ufunc", [np.add, np.subtract, np.multiply, np.divide, np.fmod])
@pytest.mark.parametrize("partner", [0x0001, 0x03FF, 0x0400, 0x3C01, 0x7BFF, 0xB555, None])
def test_every_half_is_combined_as_numpy_does(ufunc, partner):
    """Partners: subnormals, the smallest normal number, one that is odd, the largest, and others of all kinds."""
    mixed = EVERY[np.arange(1 << 16) * 40503 % (1 << 16)]
    other = mixed if partner is None else np.full(EVERY.shape, partner, np.uint16).view(np.float16)
    found, expected = compute_halves(ufunc, EVERY, other), ufunc(EVERY, other)
    assert same(numbers(found), numbers(expected))
    assert np.array_equal(np.isnan(found), np.isnan(expected))


@pytest.mark.parametrize("count", [1, 2047, 2048, 70001])
def test_few_and_many_are_narrowed_alike_wherever_they_lie(count):
    x = (np.arange(2 * count, dtype=np.float32) + 1) * np.float32(1.7e-6)
    expected = x.astype(np.float16)
    assert same(narrow_to_half(x), expected)
    assert same(narrow_to_half(x[::2]), expected[::2])
    assert same(narrow_to_half(x[::-1]), expected[::-1])
    assert same(narrow_to_half(np.broadcast_to(x[:1], (count, 3))), np.broadcast_to(expected[:1], (count, 3)))
