import math

import pytest
import torch

from indexfuzz.checks.rope import check_rope
from indexfuzz.reference import legal
from indexfuzz.reference.rope import rope

AXES = ("token", "head", "dim")
OPTIONS = {"rope_dim": 16, "style": "neox", "placement": "first"}


def inputs(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    angle = torch.rand(50, 8) * 7
    return torch.randn(20, 3, 32).bfloat16(), torch.randint(0, 50, (20,)), torch.cat([angle.cos(), angle.sin()], 1)


def test_every_contraction_passes() -> None:
    for seed in range(20):
        q, positions, table = inputs(seed)
        candidates = legal.legal_rope(q, positions, table, **OPTIONS)
        for candidate in candidates:
            assert check_rope("q", candidate, candidates, axes=AXES) is None
        mixed = torch.where(torch.rand(q.shape) < 0.5, candidates[0], candidates[2])
        assert check_rope("q", mixed, candidates, axes=AXES) is None
        assert torch.equal(rope(q, q[:, 0], positions, table, **OPTIONS)[0], candidates[0])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dim", [3, 11, 20])
def test_one_bf16_step_beyond_the_set_fails(dim: int, sign: int) -> None:
    q, positions, table = inputs(1)
    candidates = legal.legal_rope(q, positions, table, **OPTIONS)
    got = candidates[0].clone()
    column = candidates[:, 4, 1, dim]
    edge = column.max() if sign > 0 else column.min()
    got[4, 1, dim] = edge
    assert check_rope("q", got, candidates, axes=AXES) is None
    got[4, 1, dim] = torch.nextafter(edge, torch.tensor(sign * math.inf).bfloat16())
    found = check_rope("q", got, candidates, axes=AXES)
    assert found is not None
    assert (found.kind, found.index) == ("bound-exceeded", (4, 1, dim))
    assert "1 of " in found.detail
    assert found.detail.startswith(f"token 4, head 1, dim {dim} is ")


def test_zeros_of_either_sign_and_nan() -> None:
    candidates = torch.tensor([[[[0.0, math.nan]]]]).bfloat16()
    assert check_rope("q", torch.tensor([[[-0.0, math.nan]]]).bfloat16(), candidates, axes=AXES) is None
    assert check_rope("q", torch.tensor([[[0.0, 1.0]]]).bfloat16(), candidates, axes=AXES) is not None


def test_what_happened_instead_is_named() -> None:
    q, positions, table = inputs(2)
    candidates = legal.legal_rope(q, positions, table, **OPTIONS)
    found = check_rope("q", q, candidates, axes=AXES, explanations={"was not rotated": lambda: q})
    assert found is not None
    assert found.detail.startswith("q was not rotated: token 0, head 0, dim ")
    assert "only dims < 16" in found.detail
