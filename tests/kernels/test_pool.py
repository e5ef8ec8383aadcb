"""The kernels that pool keys: a request in chunks of any size, and what their launcher rejects."""

import pytest
import torch

from indexfuzz.kernels.pool import pool, tail_rows
from indexfuzz.reference import pool as reference
from indexfuzz.reference.compress import Tokens

RATIO = 4


def whole(rng, head_dim, count=14):
    k, scores = (torch.randn(count, head_dim, generator=rng).bfloat16() for _ in range(2))
    return Tokens(k, scores), torch.randn(RATIO, head_dim, generator=rng)


def arguments(tokens, bias, context, state, **change):
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
        "keys": torch.zeros(count, head_dim, dtype=torch.bfloat16),
        "slot_mapping": torch.zeros(count, dtype=torch.int64),
        "visible": torch.zeros(count, dtype=torch.int32),
        "ratio": RATIO,
        "pooling": "softmax",
        "block_size": 2,
    } | change


@pytest.mark.parametrize("pooling", ["softmax", "max"])
@pytest.mark.parametrize(("head_dim", "chunks"), [(32, (14,)), (64, (3, 5, 1, 1, 4)), (128, (1,) * 14)])
def test_keys_do_not_depend_on_chunks(rng, head_dim, chunks, pooling):
    tokens, bias = whole(rng, head_dim)
    state = torch.zeros(2, tail_rows(RATIO, max_drafts=0), 2, head_dim, dtype=torch.bfloat16)
    keys, slots, visible, done = [], [], [], 0
    for chunk in chunks:
        given = arguments(tokens.between(done, done + chunk), bias, done, state, pooling=pooling)
        pool(**given)
        keys.append(given["keys"][given["slot_mapping"] >= 0])
        slots.append(given["slot_mapping"])
        visible.append(given["visible"])
        done += chunk
    low, high = reference.legal_keys(tokens, bias, ratio=RATIO, pooling=pooling, between="bf16")
    got = torch.cat(keys)
    assert bool(((got >= low.float().bfloat16()) & (got <= high.float().bfloat16())).all())
    assert [slot for slot in torch.cat(slots).tolist() if slot >= 0] == [10, 11, 6]
    assert torch.cat(visible).tolist() == [(position + 1) // RATIO for position in range(14)]


def test_no_tokens(rng):
    tokens, bias = whole(rng, 32, 0)
    pool(**arguments(tokens, bias, 0, torch.zeros(2, 3, 2, 32, dtype=torch.bfloat16)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ratio": 3}, "ratio must be one of 2, 4, 8, 16, 32, 64, 128, got 3"),
        ({"pooling": "mean"}, 'pooling must be one of softmax, max, got "mean"'),
        ({"k": torch.zeros(14, 32)}, "k must be bfloat16, got float32"),
        ({"bias": torch.zeros(8, 32)}, r"bias must have shape \[4, 32\], got \[8, 32\]"),
        (
            {"state": torch.zeros(2, 2, 2, 32, dtype=torch.bfloat16)},
            "a ring must have at least 3 rows, the tokens of a group but its last, got 2",
        ),
        ({"state": torch.zeros(2, 3, 2, 64, dtype=torch.bfloat16)[..., :32]}, "rings must be dense, got strides"),
        ({"keys": torch.zeros(14, 48, dtype=torch.bfloat16)}, "head_dim must be 32, 64 or 128, got 48"),
    ],
)
def test_contract(rng, change, sentence):
    tokens, bias = whole(rng, 32)
    given = arguments(tokens, bias, 0, torch.zeros(2, 3, 2, 32, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match=sentence):
        pool(**given | change)
