import pytest
import torch

from indexfuzz.kernels.norm import k_norm
from indexfuzz.reference import intervals

EPS = 1e-6


def affine(rng, head_dim, dtype=torch.float32):
    return tuple((c + torch.randn(head_dim, generator=rng) / 4).to(dtype) for c in (1, 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "head_dim"), [(1, 32), (16, 64), (17, 128)])
def test_lies_where_fp32_may(rng, tokens, head_dim, dtype):
    k = (torch.randn(tokens, head_dim, generator=rng) * torch.logspace(-3, 2, tokens)[:, None] + 1).bfloat16()
    weight, bias = affine(rng, head_dim, dtype)
    got = k_norm(k, weight, bias, eps=EPS).double()
    low, high = intervals.rounded(intervals.normalised(k, weight, bias, EPS), "bf16")
    assert bool(((got >= low) & (got <= high)).all())


def test_column_slices_and_no_tokens(machine, rng, widen):
    k, (weight, bias) = torch.randn(9, 64, generator=rng).bfloat16(), affine(rng, 64)
    wide = widen(k)
    machine.declare("k", wide, initialised=True)
    assert torch.equal(k_norm(wide, weight, bias, eps=EPS), k_norm(k, weight, bias, eps=EPS))
    assert k_norm(k[:0], weight, bias, eps=EPS).shape == (0, 64)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"eps": 0.0}, "eps must be positive, got 0.0"),
        ({"k": torch.zeros(2, 48, dtype=torch.bfloat16)}, "head_dim must be 32, 64 or 128, got 48"),
        ({"k_norm_weight": torch.ones(64)}, r"k_norm_weight must have shape \[32\], got \[64\]"),
        ({"k_norm_bias": torch.ones(32).half()}, "k_norm_bias must be float32 or bfloat16, got float16"),
    ],
)
def test_contract(change, sentence):
    arguments = {"k": torch.zeros(2, 32, dtype=torch.bfloat16), "eps": EPS}
    with pytest.raises(ValueError, match=sentence):
        k_norm(**(arguments | {"k_norm_weight": torch.ones(32), "k_norm_bias": torch.zeros(32)} | change))
