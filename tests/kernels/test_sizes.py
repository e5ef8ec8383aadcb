"""Sizes of grids and tiles."""

import pytest

from indexfuzz.kernels.sizes import cdiv, next_power_of_2


@pytest.mark.parametrize(
    ("size", "part", "parts"), [(0, 4, 0), (1, 4, 1), (4, 4, 1), (5, 4, 2), (2**33 + 1, 2, 2**32 + 1)]
)
def test_the_quotient_is_rounded_up(size, part, parts):
    assert cdiv(size, part) == parts


@pytest.mark.parametrize(("size", "power"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128), (2**31 + 1, 2**32)])
def test_a_power_of_two_covers_the_size(size, power):
    assert next_power_of_2(size) == power
