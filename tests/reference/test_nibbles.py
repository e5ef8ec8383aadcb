"""E2M1 numbers, two to a byte."""

import pytest
import torch

from indexfuzz.reference import fp8, nibbles

NUMBERS = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def rounded(x: torch.Tensor) -> torch.Tensor:
    return fp8.decode(nibbles.nearest(x), nibbles.WIDE)


def test_every_number_is_its_own_and_has_a_code_of_four_bits() -> None:
    every = torch.cat([NUMBERS, -NUMBERS])
    assert torch.equal(rounded(every), every)
    codes = nibbles.widened(torch.arange(16))
    assert torch.equal(fp8.decode(codes, nibbles.WIDE), every)


@pytest.mark.parametrize("fmt", ["e4m3fn", "e4m3fnuz"])
def test_a_negative_zero_is_the_number_zero(fmt: str) -> None:
    assert nibbles.widened(torch.tensor([0, 8]), fmt).tolist() == [0, 0]
    assert nibbles.nearest(torch.tensor([-0.0, -0.25])).tolist() == [0, 0]


def test_values_between_two_numbers_go_to_the_nearest_and_ties_to_the_even_one() -> None:
    """Even are those of which the code's last bit is 0: 0, 1, 2 and 4."""
    middles = torch.tensor(nibbles.MIDPOINTS)
    assert middles.tolist() == [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
    assert rounded(middles).tolist() == [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]
    assert torch.equal(rounded(middles.nextafter(torch.zeros(7))), NUMBERS[:7])
    assert torch.equal(rounded(-middles.nextafter(torch.full((7,), 9.0))), -NUMBERS[1:])


def test_what_is_larger_than_the_largest_saturates() -> None:
    assert rounded(torch.tensor([7.0, -1e30, float("inf"), float("nan")])).tolist() == [6.0, -6.0, 6.0, 6.0]


def test_the_first_of_two_is_in_the_low_half() -> None:
    packed = torch.tensor([[0x21, 0xF0]], dtype=torch.uint8)
    assert nibbles.unpack(packed).tolist() == [[1, 2, 0, 15]]
    assert torch.equal(nibbles.pack(nibbles.unpack(packed)), packed)
    assert fp8.decode(nibbles.widen(packed), nibbles.WIDE).tolist() == [[0.5, 1.0, 0.0, -6.0]]
    assert torch.equal(nibbles.narrow(nibbles.widen(packed)), packed)


def test_keys_in_uint8_are_widened_and_others_stay() -> None:
    packed = torch.tensor([[0x87]], dtype=torch.uint8)
    assert nibbles.as_fp8_keys(packed, "e4m3fnuz").float().tolist() == [[6.0, 0.0]]
    keys = torch.ones(1, 2).to(torch.float8_e4m3fn)
    assert nibbles.as_fp8_keys(keys, "e4m3fn") is keys
