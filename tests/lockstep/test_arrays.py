"""Arrays over programs and lanes: elements are picked by their bits as `np.where` picks them."""

import numpy as np
import pytest

from indexfuzz.lockstep.values.arrays import pick

DTYPES = ["bool", "int8", "uint8", "int16", "float16", "int32", "float32", "int64", "float64"]


def bits(shape, dtype, factor):
    """Every bit pattern may be there: NaNs with a payload, negative zeros."""
    words = np.arange(np.prod(shape), dtype=np.uint64) * np.uint64(factor)
    if dtype == "bool":
        return (words >> np.uint64(40) & np.uint64(1)).astype(np.bool_).reshape(shape)
    return np.ascontiguousarray(words.view(dtype)[-words.size :]).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 7, 4096])
@pytest.mark.parametrize(
    ("first", "second"), [((1, 64), (1, 64)), ((1, 1), (1, 1)), ((4096, 1), (1, 64)), ((4096, 64), (1, 1))]
)
def test_picked_is_what_numpy_picks(dtype, rows, first, second):
    condition = bits((rows, 64), "bool", 0x9E3779B97F4A7C15)
    a, b = (
        bits((min(s[0], rows), s[1]), dtype, f) for s, f in ((first, 0xBF58476D1CE4E5B9), (second, 0x94D049BB133111EB))
    )
    picked, expected = pick(condition, a, b), np.where(condition, a, b)
    assert picked.dtype == expected.dtype
    assert picked.shape == expected.shape
    assert picked.tobytes() == expected.tobytes()


def test_a_condition_that_is_the_same_in_all_programs():
    condition = np.broadcast_to(bits((1, 64), "bool", 0x9E3779B97F4A7C15), (512, 64))
    a, b = bits((512, 64), "float32", 0xBF58476D1CE4E5B9), bits((64, 512), "float32", 0x94D049BB133111EB).T
    assert pick(condition, a, b).tobytes() == np.where(condition, a, b).tobytes()
