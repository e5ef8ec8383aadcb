import math

import pytest
import torch

from indexfuzz.checks.exact import check_bits

AXES = ("token", "dim")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.int32])
def test_equal_bits_pass_and_any_other_bit_fails(dtype: torch.dtype) -> None:
    want = torch.randint(0, 250, (3, 32), dtype=torch.uint8).view(dtype)
    assert check_bits("k_fp8", want.clone(), want, axes=AXES) is None
    for bit in range(8):
        got = want.clone()
        got.view(torch.uint8)[1, 7] ^= 1 << bit
        found = check_bits("k_fp8", got, want, axes=AXES)
        assert found is not None
        assert (found.kind, found.index) == ("code-mismatch", (1, 7 // dtype.itemsize))
        assert "1 of " in found.detail


def test_nan_equals_the_same_nan_and_zeros_differ() -> None:
    nan = torch.tensor([[math.nan]])
    assert check_bits("k_scale", nan.clone(), nan, axes=AXES) is None
    assert check_bits("k_scale", torch.tensor([[-0.0]]), torch.tensor([[0.0]]), axes=AXES) is not None


def test_unwritten_and_half_unwritten() -> None:
    poison = torch.full((2, 4), 0x7F, dtype=torch.uint8)
    want = torch.arange(8, dtype=torch.uint8).view(2, 4)
    got = want.clone()
    got[1] = 0x7F
    found = check_bits("k_fp8", got, want, axes=AXES, before=poison)
    assert found is not None
    assert found.kind == "unwritten"
    assert found.detail == (
        "token 1, dim 0 was never written, must be 4; 4 of 8 wrong; only token 1; the wrong ones are all 127"
    )
    got[0, 0] = 9
    found = check_bits("k_fp8", got, want, axes=AXES, before=poison)
    assert found is not None
    assert found.kind == "code-mismatch"


def test_a_layout_that_explains_everything() -> None:
    want = torch.arange(8, dtype=torch.uint8).view(2, 4)
    other = want.flip(1)
    found = check_bits("k_fp8", other.clone(), want, axes=AXES, layouts={"normal": lambda: other})
    assert found is not None
    assert found.kind == "layout-mismatch"
    assert found.detail.startswith("was read as the NORMAL layout: token 0, dim 0 is 3, must be 0")
    found = check_bits("k_fp8", other + 1, want, axes=AXES, layouts={"normal": lambda: other})
    assert found is not None
    assert found.kind == "code-mismatch"


def test_strided_and_empty() -> None:
    want = torch.arange(24, dtype=torch.uint8).view(2, 12)[:, ::3]
    assert check_bits("k_fp8", want.clone(), want, axes=AXES) is None
    assert check_bits("k_fp8", want[:0], want[:0], axes=AXES) is None
