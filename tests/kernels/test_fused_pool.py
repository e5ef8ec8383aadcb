"""The kernels that pool keys and insert them: a request in chunks of any size, as by single steps; what is rejected."""

import pytest
import torch

from indexfuzz.kernels.fused_pool import fused_pool
from indexfuzz.kernels.pool import pool, tail_rows
from indexfuzz.reference import cache as writer
from indexfuzz.reference.compress import Tokens

RATIO, COUNT = 4, 14
SLOTS = [10, 11, 6]
"""Of the three keys of a request that has the pages 5 and 3, of two keys each."""


def whole(rng, head_dim, count=COUNT):
    k, scores = (torch.randn(count, head_dim, generator=rng).bfloat16() for _ in range(2))
    return Tokens(k, scores), torch.randn(RATIO, head_dim, generator=rng)


def arguments(tokens, bias, context, state, cache, **change):
    count, head_dim = tokens.kv.shape
    return {
        "k": tokens.kv,
        "scores": tokens.scores,
        "bias": bias,
        "query_start": torch.tensor([0, count], dtype=torch.int32),
        "context_lens": torch.tensor([context], dtype=torch.int32),
        "rings": torch.tensor([1], dtype=torch.int32),
        "block_table": torch.tensor([[5, 3]], dtype=torch.int32),
        "state": state,
        "cache": cache,
        "slot_mapping": torch.zeros(count, dtype=torch.int64),
        "visible": torch.zeros(count, dtype=torch.int32),
        "ratio": RATIO,
        "pooling": "softmax",
        "scale_fmt": "ue8m0",
        "fp8": "e4m3fn",
        "quant_group": head_dim,
        "layout": "normal",
    } | change


def tails(head_dim):
    return torch.zeros(2, tail_rows(RATIO, max_drafts=0), 2, head_dim, dtype=torch.bfloat16)


def pooled(tokens, bias, pooling):
    """All keys of a request, made in one step."""
    count, head_dim = tokens.kv.shape
    keys = torch.zeros(count, head_dim, dtype=torch.bfloat16)
    given = arguments(tokens, bias, 0, tails(head_dim), torch.zeros(1, 2, head_dim + 4, dtype=torch.uint8))
    own = {name: given[name] for name in given if name not in ("cache", "scale_fmt", "fp8", "quant_group", "layout")}
    pool(**own | {"keys": keys, "pooling": pooling, "block_size": 2})
    return keys[given["slot_mapping"] >= 0]


@pytest.mark.parametrize("pooling", ["softmax", "max"])
@pytest.mark.parametrize(("head_dim", "chunks"), [(32, (14,)), (64, (3, 5, 1, 1, 4)), (128, (1,) * 14)])
def test_keys_do_not_depend_on_chunks(rng, make_cache, head_dim, chunks, pooling):
    tokens, bias = whole(rng, head_dim)
    state, got, want = tails(head_dim), make_cache(6, 2, head_dim), make_cache(6, 2, head_dim)
    slots, visible, done = [], [], 0
    for chunk in chunks:
        given = arguments(tokens.between(done, done + chunk), bias, done, state, got, pooling=pooling)
        fused_pool(**given)
        slots.append(given["slot_mapping"])
        visible.append(given["visible"])
        done += chunk
    keys = pooled(tokens, bias, pooling)
    cached = {"scale_fmt": "ue8m0", "fp8": "e4m3fn", "quant_group": head_dim, "layout": "normal"}
    writer.k_quant_cache(keys, want, torch.tensor(SLOTS), **cached)
    assert torch.equal(got, want)
    assert [slot for slot in torch.cat(slots).tolist() if slot >= 0] == SLOTS
    assert torch.cat(visible).tolist() == [(position + 1) // RATIO for position in range(COUNT)]


def test_no_tokens(rng, make_cache):
    cache, before = make_cache(6, 2, 32), make_cache(6, 2, 32)
    fused_pool(**arguments(*whole(rng, 32, 0), 0, tails(32), cache))
    assert torch.equal(cache, before)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"scale_fmt": "fp32"}, 'scale_fmt must be one of ue8m0, got "fp32"'),
        ({"ratio": 3}, "ratio must be one of 2, 4, 8, 16, 32, 64, 128, got 3"),
        ({"pooling": "mean"}, 'pooling must be one of softmax, max, got "mean"'),
        ({"k": torch.zeros(14, 32)}, "k must be bfloat16, got float32"),
        ({"k": torch.zeros(14, 48, dtype=torch.bfloat16)}, "head_dim must be 32, 64 or 128, got 48"),
        ({"bias": torch.zeros(8, 32)}, r"bias must have shape \[4, 32\], got \[8, 32\]"),
        ({"quant_group": 16}, "quant_group must equal head_dim 32, got 16"),
        (
            {"state": torch.zeros(2, 2, 2, 32, dtype=torch.bfloat16)},
            "a ring must have at least 3 rows, the tokens of a group but its last, got 2",
        ),
        ({"layout": "shuffle"}, "the SHUFFLE layout needs block_size and head_dim to be multiples of 16"),
    ],
)
def test_contract(rng, make_cache, change, sentence):
    given = arguments(*whole(rng, 32), 0, tails(32), make_cache(6, 2, 32))
    with pytest.raises(ValueError, match=sentence):
        fused_pool(**given | change)
