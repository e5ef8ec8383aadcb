"""Pooled and rotated keys: what the formula says token by token, and how wide the legal keys are."""

import pytest
import torch

from indexfuzz.reference import pool
from indexfuzz.reference.compress import Tokens
from indexfuzz.samples.regimes import dense

RATIO = 4


def tokens(count=14, dims=32):
    k, scores = (dense("normal", key, (count, dims), "e4m3fn").bfloat16() for key in (1, 2))
    return Tokens(k, scores), dense("normal", 3, (RATIO, dims), "e4m3fn")


def one_by_one(tokens, bias, pooling):
    """The keys in fp64, element by element of the Hadamard matrix, rounded to bf16 before it."""
    dims = tokens.kv.shape[1]
    signs = torch.tensor([[(-1.0) ** (i & j).bit_count() for j in range(dims)] for i in range(dims)]).double()
    found = []
    for group in range(len(tokens.kv) // RATIO):
        own = slice(group * RATIO, (group + 1) * RATIO)
        k, score = tokens.kv[own].double(), (tokens.scores[own] + bias).double()
        pooled = (score.softmax(0) * k).sum(0) if pooling == "softmax" else k.amax(0)
        found.append(signs @ pooled.bfloat16().double() / dims**0.5)
    return torch.stack(found)


@pytest.mark.parametrize("pooling", ["softmax", "max"])
def test_keys_are_those_of_the_formula(pooling):
    made, bias = tokens()
    want = one_by_one(made, bias, pooling)
    assert want.shape == (3, 32)
    assert torch.equal(pool.keys(made, bias, ratio=RATIO, pooling=pooling), want.float().bfloat16())
    low, high = pool.legal_keys(made, bias, ratio=RATIO, pooling=pooling, between="bf16")
    assert bool(((low <= want) & (want <= high)).all())


def test_what_is_legal_depends_on_what_is_rounded_in_between():
    made, bias = tokens()
    legal = {
        between: pool.legal_keys(made, bias, ratio=RATIO, pooling="softmax", between=between)
        for between in ("bf16", "fp32", "unknown")
    }
    middle = (legal["fp32"].low + legal["fp32"].high) / 2
    assert not bool(((legal["bf16"].low <= middle) & (middle <= legal["bf16"].high)).all())
    for low, high in (legal["bf16"], legal["fp32"]):
        assert bool(((legal["unknown"].low <= low) & (high <= legal["unknown"].high)).all())
    low, high = legal["bf16"]
    assert float((low.float().bfloat16() != high.float().bfloat16()).double().mean()) < 0.1


def test_there_is_no_key_of_a_group_that_is_not_complete():
    made, bias = tokens(3)
    assert pool.keys(made, bias, ratio=RATIO, pooling="max").shape == (0, 32)
