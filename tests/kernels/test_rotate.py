import pytest
import torch

from indexfuzz.kernels.rotate import rotate
from indexfuzz.lockstep import Lockstep


@pytest.fixture(autouse=True)
def in_lockstep():
    with Lockstep():
        yield


def matrix(dim):
    """Sylvester's matrix, element by element of its definition."""
    return torch.tensor([[(-1.0) ** (i & j).bit_count() for i in range(dim)] for j in range(dim)], dtype=torch.double)


def inputs(tokens=3, heads=2, dim=32):
    values = torch.arange(tokens * (heads + 1) * dim, dtype=torch.float32).sin().bfloat16()
    q, k = values.split([tokens * heads * dim, tokens * dim])
    return q.view(tokens, heads, dim), k.view(tokens, dim)


@pytest.mark.parametrize("dim", [32, 64, 128])
def test_rows_are_turned_by_the_matrix(dim):
    for x, got in zip(inputs(dim=dim), rotate(*inputs(dim=dim)), strict=True):
        want = x.double() @ matrix(dim) / dim**0.5
        assert got.dtype == torch.bfloat16
        assert bool(((got.double() - want).abs() <= want.abs() * 2.0**-8 + 1e-6).all())


def test_products_stay_and_twice_is_nothing():
    q, k = inputs()
    turned_q, turned_k = rotate(q, k)
    before, after = (torch.einsum("thd,td->th", a.double(), b.double()) for a, b in ((q, k), (turned_q, turned_k)))
    assert torch.allclose(before, after, atol=0.05)
    assert torch.allclose(rotate(turned_q, turned_k)[0].double(), q.double(), atol=0.02)


def test_rows_may_be_strided_and_none_is_fine():
    q, k = inputs()
    wide = torch.zeros(3, 3, 40, dtype=torch.bfloat16)
    wide[:, :2, :32], wide[:, 2, :32] = q, k
    for got, want in zip(rotate(wide[:, :2, :32], wide[:, 2, :32]), rotate(q, k), strict=True):
        assert torch.equal(got, want)
    assert rotate(q[:0], k[:0])[1].shape == (0, 32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"q": torch.zeros(3, 2, 48, dtype=torch.bfloat16)}, "head_dim"),
        ({"q": torch.zeros(3, 2, 32).double()}, "q must be bfloat16 or float16 or float32, got float64"),
        ({"k": torch.zeros(2, 32, dtype=torch.bfloat16)}, r"k must have shape \[3, 32\]"),
        ({"k": torch.zeros(3, 64, dtype=torch.bfloat16)[:, ::2]}, "k"),
    ],
)
def test_what_it_refuses(change, words):
    q, k = inputs()
    with pytest.raises(ValueError, match=words):
        rotate(**({"q": q, "k": k} | change))
