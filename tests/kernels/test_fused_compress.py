"""The kernels that make compressed keys and insert them: a request in chunks of any size, and what is rejected."""

import pytest
import torch

from indexfuzz.kernels.compress import ring_rows
from indexfuzz.kernels.fused_compress import fused_compress
from indexfuzz.reference import cache as writer
from indexfuzz.reference import fused_compress as reference
from indexfuzz.reference.compress import Tokens

RATIO, COUNT = 4, 14
SLOTS = [10, 11, 6]
"""Of the three keys of a request that has the pages 5 and 3, of two keys each."""


def whole(rng, head_dim, count=COUNT):
    width = 2 * head_dim
    kv, scores = (torch.randn(count, width, generator=rng) for _ in range(2))
    weight = (1 + torch.randn(head_dim, generator=rng) / 4).bfloat16()
    angle, bias = torch.rand(COUNT, 8, generator=rng) * 6, torch.randn(RATIO, width, generator=rng)
    return Tokens(kv, scores), bias, weight, torch.cat([angle.cos(), angle.sin()], 1)


def arguments(request, context, state, cache, **change):
    tokens, bias, weight, table = request
    count, head_dim = len(tokens.kv), len(weight)
    return {
        "kv": tokens.kv,
        "scores": tokens.scores,
        "bias": bias,
        "norm_weight": weight,
        "cos_sin_cache": table,
        "query_start": torch.tensor([0, count], dtype=torch.int32),
        "context_lens": torch.tensor([context], dtype=torch.int32),
        "rings": torch.tensor([1], dtype=torch.int32),
        "block_table": torch.tensor([[5, 3]], dtype=torch.int32),
        "state": state,
        "cache": cache,
        "slot_mapping": torch.zeros(count, dtype=torch.int64),
        "visible": torch.zeros(count, dtype=torch.int32),
        "ratio": RATIO,
        "overlap": True,
        "eps": 1e-6,
        "rope_dim": 16,
        "style": "interleaved",
        "placement": "last",
        "scale_fmt": "ue8m0",
        "fp8": "e4m3fn",
        "quant_group": head_dim,
        "layout": "normal",
    } | change


def rings(head_dim):
    return torch.zeros(2, ring_rows(RATIO, overlap=True, max_drafts=0), 2, 2 * head_dim)


@pytest.mark.parametrize(("style", "placement"), [("interleaved", "last"), ("neox", "first")])
@pytest.mark.parametrize(("head_dim", "chunks"), [(32, (14,)), (64, (3, 5, 1, 1, 4)), (128, (1,) * 14)])
def test_keys_do_not_depend_on_chunks(rng, make_cache, head_dim, chunks, style, placement):
    tokens, *model = whole(rng, head_dim)
    state, got, want = rings(head_dim), make_cache(6, 2, head_dim), make_cache(6, 2, head_dim)
    slots, visible, done = [], [], 0
    for chunk in chunks:
        part = (tokens.between(done, done + chunk), *model)
        given = arguments(part, done, state, got, style=style, placement=placement)
        fused_compress(**given)
        slots.append(given["slot_mapping"])
        visible.append(given["visible"])
        done += chunk
    rope = {"rope_dim": 16, "style": style, "placement": placement}
    keys = reference.keys(tokens, *model, ratio=RATIO, overlap=True, eps=1e-6, **rope)
    cached = {"scale_fmt": "ue8m0", "fp8": "e4m3fn", "quant_group": head_dim, "layout": "normal"}
    writer.k_quant_cache(keys, want, torch.tensor(SLOTS), **cached)
    assert torch.equal(got, want)
    assert [slot for slot in torch.cat(slots).tolist() if slot >= 0] == SLOTS
    assert torch.cat(visible).tolist() == [(position + 1) // RATIO for position in range(COUNT)]


def test_no_tokens(rng, make_cache):
    cache, before = make_cache(6, 2, 32), make_cache(6, 2, 32)
    fused_compress(**arguments(whole(rng, 32, 0), 0, rings(32), cache))
    assert torch.equal(cache, before)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"scale_fmt": "fp32"}, 'scale_fmt must be one of ue8m0, got "fp32"'),
        ({"ratio": 3}, "ratio must be one of 2, 4, 8, 16, 32, 64, 128, got 3"),
        ({"style": "gptj"}, 'style must be one of neox, interleaved, got "gptj"'),
        ({"rope_dim": 3}, "rope_dim must be even and 2 to head_dim 32, got 3"),
        ({"eps": 0.0}, "eps must be positive, got 0.0"),
        ({"overlap": False}, r"kv must have shape \[14, 32\], got \[14, 64\]"),
        ({"norm_weight": torch.ones(48)}, "head_dim must be 32, 64 or 128, got 48"),
        ({"quant_group": 16}, "quant_group must equal head_dim 32, got 16"),
        ({"cos_sin_cache": torch.ones(14, 8)}, r"cos_sin_cache must have shape \[any, 16\], got \[14, 8\]"),
        ({"state": torch.zeros(2, 7, 2, 64)}, "a ring must have at least 8 rows, the tokens of a window, got 7"),
        ({"layout": "shuffle"}, "the SHUFFLE layout needs block_size and head_dim to be multiples of 16"),
    ],
)
def test_contract(rng, make_cache, change, sentence):
    given = arguments(whole(rng, 32), 0, rings(32), make_cache(6, 2, 32))
    with pytest.raises(ValueError, match=sentence):
        fused_compress(**given | change)
