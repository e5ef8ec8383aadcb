"""The kernel that makes compressed keys and norms them: a request in chunks of any size, and what is rejected."""

import pytest
import torch

from indexfuzz.kernels.compress import ring_rows
from indexfuzz.kernels.compress_norm import compress_norm
from indexfuzz.reference import compress
from indexfuzz.reference.compress import Tokens
from indexfuzz.reference.fused_compress import rms_norm

COUNT, EPS = 7, 1e-6


def whole(rng, head_dim, ratio):
    tokens = Tokens(*(torch.randn(COUNT, head_dim, generator=rng) for _ in range(2)))
    weight = (1 + torch.randn(head_dim, generator=rng) / 4).bfloat16()
    return tokens, torch.randn(ratio, head_dim, generator=rng), weight


def arguments(request, context, state, **change):
    tokens, bias, weight = request
    count, head_dim = len(tokens.kv), len(weight)
    return {
        "kv": tokens.kv,
        "scores": tokens.scores,
        "bias": bias,
        "norm_weight": weight,
        "query_start": torch.tensor([0, count], dtype=torch.int32),
        "context_lens": torch.tensor([context], dtype=torch.int32),
        "rings": torch.tensor([1], dtype=torch.int32),
        "block_table": torch.tensor([[5, 3, 0, 8]], dtype=torch.int32),
        "state": state,
        "keys": torch.full((count, head_dim), 7.0, dtype=torch.bfloat16),
        "slot_mapping": torch.zeros(count, dtype=torch.int64),
        "visible": torch.zeros(count, dtype=torch.int32),
        "ratio": len(bias),
        "eps": EPS,
        "block_size": 2,
    } | change


def rings(head_dim, ratio):
    return torch.zeros(2, ring_rows(ratio, overlap=False, max_drafts=0), 2, head_dim)


@pytest.mark.parametrize(
    ("head_dim", "ratio", "chunks"),
    [(32, 2, (7,)), (64, 2, (3, 1, 2, 1)), (128, 4, (1,) * 7), (32, 4, (6, 1)), (64, 1, (3, 4))],
)
def test_keys_do_not_depend_on_chunks(rng, head_dim, ratio, chunks):
    tokens, bias, weight = whole(rng, head_dim, ratio)
    state, made, slots, visible, done = rings(head_dim, ratio), [], [], [], 0
    for chunk in chunks:
        given = arguments((tokens.between(done, done + chunk), bias, weight), done, state)
        compress_norm(**given)
        made.append(given["keys"])
        slots += given["slot_mapping"].tolist()
        visible += given["visible"].tolist()
        done += chunk
    got, due = torch.cat(made), [position % ratio == ratio - 1 for position in range(COUNT)]
    want = rms_norm(compress.keys(tokens, bias, ratio=ratio, overlap=False), weight, eps=EPS)
    assert torch.equal(got[due], want)
    assert bool((got[[not is_due for is_due in due]] == 7.0).all())
    assert [slot for slot in slots if slot >= 0] == [10, 11, 6, 7, 0, 1, 16][: len(want)]
    assert visible == [(position + 1) // ratio for position in range(COUNT)]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ratio": 3}, "ratio must be one of 1, 2, 4, 8, 16, 32, 64, 128, got 3"),
        ({"eps": 0.0}, "eps must be positive, got 0.0"),
        ({"norm_weight": torch.ones(48)}, r"norm_weight must have shape \[32\], got \[48\]"),
        ({"kv": torch.ones(7, 64)}, r"kv must have shape \[7, 32\], got \[7, 64\]"),
        ({"bias": torch.ones(2, 64)[:, :32]}, r"bias must be dense, got strides \(64, 1\)"),
        ({"state": torch.zeros(2, 1, 2, 32)}, "a ring must have at least 2 rows, the tokens of a group, got 1"),
        ({"keys": torch.ones(7, 48, dtype=torch.bfloat16)}, "head_dim must be 32, 64 or 128, got 48"),
    ],
)
def test_contract(rng, change, sentence):
    given = arguments(whole(rng, 32, 2), 0, rings(32, 2))
    with pytest.raises(ValueError, match=sentence):
        compress_norm(**given | change)
