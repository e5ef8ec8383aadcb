from fractions import Fraction

import pytest
import torch

from indexfuzz.reference import fp8, layout, mqa_logits
from indexfuzz.reference.indexer import topk
from indexfuzz.reference.paged_mqa_logits import paged_mqa_logits


def random_codes(*shape: int, fmt: str = "e4m3fn") -> torch.Tensor:
    """Every finite code occurs."""
    codes = torch.randint(0, 256, shape, dtype=torch.uint8)
    return fp8.as_fp8(torch.where(torch.isnan(fp8.decode(codes, fmt)), 0, codes).to(torch.uint8), fmt)


def numbers(x: torch.Tensor) -> list[float]:
    return fp8.decode(fp8.codes(x), fp8.format_of(x)).tolist()


def logit_by_definition(q: torch.Tensor, k: torch.Tensor, scale: float, weights: list[float]) -> float:
    total = Fraction(0)
    for head, w in zip(q, weights, strict=True):
        score = sum(Fraction(a) * Fraction(b) for a, b in zip(numbers(head), numbers(k), strict=True))
        total += Fraction(w) * max(score, Fraction(0))
    return float(total * Fraction(scale))


@pytest.mark.parametrize("fmt", ["e4m3fn", "e4m3fnuz"])
@pytest.mark.parametrize(("heads", "head_dim", "budget"), [(1, 16, 1 << 22), (6, 32, 1), (3, 256, 40)])
def test_prefill(fmt: str, heads: int, head_dim: int, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqa_logits, "CHUNK_SCORES", budget)
    torch.manual_seed(heads)
    q, k = random_codes(5, heads, head_dim, fmt=fmt), random_codes(7, head_dim, fmt=fmt)
    scale, weights = torch.rand(7), torch.randn(5, heads)
    ks = torch.tensor([0, 2, 4, 6, 0], dtype=torch.int32)
    ke = torch.tensor([7, 5, 4, 3, 99], dtype=torch.int32)
    logits = torch.full((5, 7), float("nan"))
    mqa_logits.mqa_logits(q, k, scale, weights, ks, ke, logits)
    for m in range(5):
        for n in range(7):
            want = float("-inf")
            if ks[m] <= n < ke[m]:
                want = logit_by_definition(q[m], k[n], float(scale[n]), weights[m].tolist())
            assert float(logits[m, n]) == pytest.approx(want, rel=2.0**-22, abs=1e-30)


@pytest.mark.parametrize("fmt", ["e4m3fn", "e4m3fnuz"])
@pytest.mark.parametrize(("block_size", "name"), [(1, "auto"), (16, "auto"), (16, "normal")])
@pytest.mark.parametrize("next_n", [1, 2, 6])
@pytest.mark.parametrize("two_dimensional", [False, True])
def test_decode(fmt: str, block_size: int, name: str, next_n: int, two_dimensional: bool) -> None:
    torch.manual_seed(next_n)
    batch, heads, head_dim, max_model_len = 5, 2, 16, 21
    stride = block_size * (head_dim + 4) + 8
    memory = torch.full((40 * stride,), {"e4m3fn": 0x7F, "e4m3fnuz": 0x80}[fmt], dtype=torch.uint8)
    cache = memory.as_strided((40, block_size, head_dim + 4), (stride, head_dim + 4, 1))
    concrete = layout.resolve(name, block_size)
    keys, scales = random_codes(40 * block_size, head_dim, fmt=fmt), torch.rand(40 * block_size)
    lens = torch.tensor([0, 1, 17, 21, 30], dtype=torch.int32)
    per_row = lens[:, None].long() - next_n + torch.arange(1, next_n + 1)
    if two_dimensional:
        per_row = torch.randint(0, 31, (batch, next_n))
        lens = per_row.int()
    columns = -(-max_model_len // block_size)
    table = torch.full((batch, columns + 3), 1 << 30, dtype=torch.int32)
    for b in range(batch):
        used = -(-min(max_model_len, max(0, int(per_row[b].max()))) // block_size)
        table[b, :used] = torch.randperm(40)[:used]
        slots = (table[b, :used, None] * block_size + torch.arange(block_size)).flatten().long()
        layout.write_tokens(cache, slots, fp8.codes(keys)[slots], scales[slots], concrete)
    q, weights = random_codes(batch, next_n, heads, head_dim, fmt=fmt), torch.randn(batch * next_n, heads)
    logits = torch.full((batch * next_n, max_model_len), float("nan"))
    paged_mqa_logits(q, cache, weights, lens, table, logits, layout=name)
    for b in range(batch):
        for j in range(next_n):
            for n in range(max_model_len):
                want = float("-inf")
                if n < int(per_row[b, j]):
                    slot = int(table[b, n // block_size]) * block_size + n % block_size
                    want = logit_by_definition(
                        q[b, j], keys[slot], float(scales[slot]), weights[b * next_n + j].tolist()
                    )
                assert float(logits[b * next_n + j, n]) == pytest.approx(want, rel=2.0**-22, abs=1e-30)


def test_decode_hides_missing_pages_and_refuses_missing_columns() -> None:
    cache = torch.zeros((4, 16, 36), dtype=torch.uint8)
    q, weights = random_codes(1, 1, 2, 32), torch.ones(1, 2)
    lens = torch.tensor([20], dtype=torch.int32)
    with pytest.raises(ValueError, match="block table has only 1 columns"):
        paged_mqa_logits(
            q, cache, weights, lens, torch.zeros((1, 1), dtype=torch.int32), torch.empty(1, 40), layout="auto"
        )
    for missing in (-1, 4, 1 << 30):
        logits, table = torch.empty(1, 40), torch.tensor([[missing, 3]], dtype=torch.int32)
        paged_mqa_logits(q, cache, weights, lens, table, logits, layout="auto")
        assert torch.isfinite(logits[0]).nonzero().flatten().tolist() == [16, 17, 18, 19]


def test_empty_problems() -> None:
    none = torch.empty(0, dtype=torch.int32)
    logits = torch.full((2, 3), 1.0)
    mqa_logits.mqa_logits(
        random_codes(0, 2, 16), random_codes(3, 16), torch.ones(3), torch.ones(0, 2), none, none, logits[:0]
    )
    zeros = torch.zeros(2, dtype=torch.int32)
    empty = torch.empty(2, 0)
    mqa_logits.mqa_logits(
        random_codes(2, 2, 16), random_codes(0, 16), torch.ones(0), torch.ones(2, 2), zeros, zeros, empty
    )
    cache = torch.zeros((4, 16, 20), dtype=torch.uint8)
    table = torch.empty((0, 2), dtype=torch.int32)
    paged_mqa_logits(random_codes(0, 3, 2, 16), cache, torch.ones(0, 2), none, table, torch.empty(0, 8), layout="auto")
    paged_mqa_logits(
        random_codes(2, 1, 2, 16),
        cache,
        torch.ones(2, 2),
        zeros,
        torch.full((2, 0), -1, dtype=torch.int32),
        logits,
        layout="auto",
    )
    assert bool((logits == float("-inf")).all())


def test_topk_pads_with_minus_one() -> None:
    inf = float("inf")
    logits = torch.tensor([[1.0, 3.0, -inf, 2.0], [-inf, -inf, -inf, -inf], [-1.0, -inf, 0.0, -2.0]])
    assert topk(logits, index_topk=3).tolist() == [[1, 3, 0], [-1, -1, -1], [2, 0, 3]]
    wide = topk(logits, index_topk=6)
    assert wide.dtype == torch.int32
    assert wide.tolist() == [[1, 3, 0, -1, -1, -1], [-1] * 6, [2, 0, 3, -1, -1, -1]]
    assert topk(logits[:, :0], index_topk=2).tolist() == [[-1, -1]] * 3
