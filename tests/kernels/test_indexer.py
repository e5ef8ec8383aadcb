import pytest
import torch

from indexfuzz.kernels.indexer import Decode, IndexerConfig, Prefill, forward, topk
from indexfuzz.reference import cache as reference_cache
from indexfuzz.reference import gather, indexer, mqa_logits, paged_mqa_logits, quant, rope

INF = float("inf")


def test_topk_orders_and_pads():
    logits = torch.tensor([[1.0, 3.0, -INF, 2.0], [-INF] * 4, [-INF, -1e30, -INF, -INF]])
    chosen = topk(logits, index_topk=3)
    assert chosen.dtype == torch.int32
    assert chosen.tolist() == [[1, 3, 0], [-1, -1, -1], [1, -1, -1]]


def test_topk_wider_than_the_logits():
    assert topk(torch.tensor([[0.0, 5.0]]), index_topk=4).tolist() == [[1, 0, -1, -1]]


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (3, 0), (0, 0)])
def test_topk_of_nothing(rows, columns):
    chosen = topk(torch.empty(rows, columns), index_topk=4)
    assert chosen.shape == (rows, 4)
    assert (chosen == -1).all()


def test_topk_contract():
    with pytest.raises(ValueError, match="index_topk must be positive, got 0"):
        topk(torch.zeros(1, 2), index_topk=0)
    with pytest.raises(ValueError, match="logits must be float32, got float64"):
        topk(torch.zeros(1, 2).double(), index_topk=1)


HEADS, HEAD_DIM, BLOCK_SIZE, ROPE_DIM = 4, 32, 16, 16
CONTEXT_LENS, NEXT_N = [20, 3], 2
PREFILL = [(18, 5), (4, 4)]  # (length, new tokens)
TOKENS = len(CONTEXT_LENS) * NEXT_N + sum(new for _, new in PREFILL) + 1


class Step:
    """Two decode requests of two tokens, two prefill requests, one padded token; what came before is in the cache."""

    def __init__(self, rng, make_cache, config):
        lengths = CONTEXT_LENS + [length for length, _ in PREFILL]
        new = [NEXT_N] * len(CONTEXT_LENS) + [new for _, new in PREFILL]
        table = torch.arange(len(lengths) * 2, dtype=torch.int32).flip(0).view(-1, 2)
        self.q = torch.randn(TOKENS, HEADS, HEAD_DIM, generator=rng).bfloat16()
        self.k = torch.randn(TOKENS, HEAD_DIM, generator=rng).bfloat16()
        self.weights = torch.randn(TOKENS, HEADS, generator=rng)
        self.cos_sin_cache = torch.randn(32, ROPE_DIM, generator=rng)
        self.cache = make_cache(len(lengths) * 2, BLOCK_SIZE, HEAD_DIM)
        positions, slots = [], []
        for seq, (length, count) in enumerate(zip(lengths, new, strict=True)):
            position = torch.arange(length)
            slot = table[seq].long()[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE
            positions.append(position[length - count :])
            slots.append(slot[length - count :])
            context = torch.randn(length - count, HEAD_DIM, generator=rng).bfloat16()
            reference_cache.k_quant_cache(
                context,
                self.cache,
                slot[: length - count],
                scale_fmt=config.scale_fmt,
                fp8=config.fp8,
                quant_group=HEAD_DIM,
                layout=config.layout,
            )
        self.positions = torch.cat([*positions, torch.zeros(1, dtype=torch.int64)])
        self.slot_mapping = torch.cat([*slots, torch.tensor([-1])])
        self.decode = Decode(
            context_lens=torch.tensor(CONTEXT_LENS, dtype=torch.int32),
            block_table=table[:2],
            next_n=NEXT_N,
            max_model_len=32,
        )
        keys = torch.tensor([length for length, _ in PREFILL])
        cu_seqlens = torch.cat([torch.zeros(1), keys.cumsum(0)]).int()
        rows = [(start, length, new) for start, (length, new) in zip(cu_seqlens.tolist(), PREFILL, strict=False)]
        self.prefill = Prefill(
            block_table=table[2:],
            cu_seqlens=cu_seqlens,
            token_to_seq=torch.repeat_interleave(torch.arange(2), keys).int(),
            ks=torch.cat([torch.full((new,), start) for start, _, new in rows]).int(),
            ke=torch.cat([start + length - new + 1 + torch.arange(new) for start, length, new in rows]).int(),
        )

    def forward(self, config, **requests):
        names = ("q", "k", "weights", "positions", "cos_sin_cache", "cache", "slot_mapping")
        return forward(*(getattr(self, name) for name in names), config=config, **requests)


def config(**changes):
    defaults = {
        "rope_dim": ROPE_DIM,
        "rope_style": "neox",
        "rope_placement": "first",
        "rope_mode": "inplace",
        "scale_fmt": "ue8m0",
        "fp8": "e4m3fn",
        "quant_group": HEAD_DIM,
        "layout": "auto",
        "index_topk": 8,
    }
    return IndexerConfig(**(defaults | changes))


def expected(step, config):
    """The whole step out of reference stages, up to the logits of decode and of prefill."""
    q, k = rope.rope(
        step.q,
        step.k,
        step.positions,
        step.cos_sin_cache,
        rope_dim=config.rope_dim,
        style=config.rope_style,
        placement=config.rope_placement,
    )
    q_fp8, q_weights = quant.q_quant(q, step.weights, scale_fmt=config.scale_fmt, fp8=config.fp8)
    cache = step.cache.clone()
    reference_cache.k_quant_cache(
        k,
        cache,
        step.slot_mapping,
        scale_fmt=config.scale_fmt,
        fp8=config.fp8,
        quant_group=HEAD_DIM,
        layout=config.layout,
    )
    decode, prefill = step.decode, step.prefill
    split, end = decode.num_tokens, decode.num_tokens + len(prefill.ks)
    paged = torch.empty(split, decode.max_model_len)
    paged_mqa_logits.paged_mqa_logits(
        q_fp8[:split].unflatten(0, (-1, NEXT_N)),
        cache,
        q_weights[:split],
        decode.context_lens,
        decode.block_table,
        paged,
        layout=config.layout,
    )
    keys = len(prefill.token_to_seq)
    k_fp8, k_scale = torch.empty(keys, HEAD_DIM, dtype=q_fp8.dtype), torch.empty(keys)
    gather.gather(
        cache,
        prefill.block_table,
        prefill.cu_seqlens,
        prefill.token_to_seq,
        k_fp8,
        k_scale,
        quant_group=HEAD_DIM,
        layout=config.layout,
    )
    ragged = torch.empty(end - split, keys)
    mqa_logits.mqa_logits(q_fp8[split:end], k_fp8, k_scale, q_weights[split:end], prefill.ks, prefill.ke, ragged)
    return cache, indexer.topk(paged, index_topk=config.index_topk), indexer.topk(ragged, index_topk=config.index_topk)


@pytest.mark.parametrize("mode", ["inplace", "functional"])
@pytest.mark.parametrize("fp8", ["e4m3fn", "e4m3fnuz"])
def test_forward_selects_what_the_reference_selects(rng, make_cache, mode, fp8):
    settings = config(rope_mode=mode, fp8=fp8)
    step = Step(rng, make_cache, settings)
    cache, decode_columns, prefill_columns = expected(step, settings)
    selected = step.forward(settings, decode=step.decode, prefill=step.prefill)
    assert torch.equal(step.cache, cache)
    assert torch.equal(selected[:4], decode_columns)
    in_sequence = torch.where(prefill_columns >= 0, prefill_columns - step.prefill.ks[:, None], -1)
    assert torch.equal(selected[4:-1], in_sequence)
    assert (selected[-1] == -1).all()
    assert (selected <= step.positions[:, None]).all()


def test_forward_does_not_depend_on_the_rope_mode(make_cache):
    selections = []
    for mode in ("inplace", "functional"):
        settings = config(rope_mode=mode)
        step = Step(torch.Generator().manual_seed(3), make_cache, settings)
        selections.append(step.forward(settings, decode=step.decode, prefill=step.prefill))
    assert torch.equal(*selections)


def test_forward_without_requests_only_fills_the_cache(rng, make_cache):
    settings = config()
    step = Step(rng, make_cache, settings)
    cache, _, _ = expected(step, settings)
    assert (step.forward(settings) == -1).all()
    assert torch.equal(step.cache, cache)
