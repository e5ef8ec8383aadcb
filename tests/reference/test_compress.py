"""Keys of several tokens in their intervals: softmax and sum in fp32, in any order."""

import pytest
import torch

from indexfuzz.reference import compress
from indexfuzz.reference.compress import Tokens

RATIO, DIMS = 4, 16


def request(scale=1.0):
    torch.manual_seed(7)
    kv, scores = torch.randn(14, 2 * DIMS) * scale, torch.randn(14, 2 * DIMS) * 4
    return Tokens(kv, scores), torch.randn(RATIO, 2 * DIMS)


def in_fp32(tokens, bias, *, flip=False, missing=float("-inf"), weights=lambda x: x):
    """Key by key, as a kernel makes them; with the tokens of a key in the other order, or something done otherwise."""
    found = []
    for group in range(len(tokens.kv) // RATIO):
        own = slice(group * RATIO, (group + 1) * RATIO)
        kv, score = tokens.kv[own, DIMS:], (tokens.scores[own] + bias)[:, DIMS:]
        if group:
            before = slice((group - 1) * RATIO, group * RATIO)
            older, score_before = tokens.kv[before, :DIMS], (tokens.scores[before] + bias)[:, :DIMS]
        else:
            older, score_before = torch.zeros(RATIO, DIMS), torch.full((RATIO, DIMS), missing)
        kv, score = torch.cat([older, kv]), torch.cat([score_before, score])
        if flip:
            kv, score = kv.flip(0), score.flip(0)
        weight = (score - score.amax(0)).exp()
        total = weight.sum(0)
        key = torch.zeros(DIMS)
        for row, w in zip(kv, weights(weight), strict=True):
            key = key + row * (w / total)
        found.append(key)
    return torch.stack(found).double()


def legal(tokens, bias):
    return compress.legal_keys(tokens, bias, ratio=RATIO, overlap=True)


def within(x, interval):
    return bool(((x >= interval.low) & (x <= interval.high)).all())


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e20])
def test_keys_in_fp32_lie_in_their_interval_in_either_order(flip, scale):
    tokens, bias = request(scale)
    assert within(in_fp32(tokens, bias, flip=flip), legal(tokens, bias))


@pytest.mark.parametrize(
    "wrong",
    [
        {"missing": 0.0},
        {"weights": lambda w: w.bfloat16().float()},
        {"weights": lambda w: w.roll(1, 0)},
        {"weights": lambda w: w * (1 + 2.0**-17)},
    ],
)
def test_other_keys_do_not(wrong):
    tokens, bias = request()
    assert not within(in_fp32(tokens, bias, **wrong), legal(tokens, bias))


def test_a_key_is_known_to_a_hundred_thousandth_and_not_at_all_where_it_overflows():
    low, high = legal(*request())
    assert float((high - low).max()) < 1e-5
    low, high = legal(*request(1e38))
    assert bool(torch.isinf(low).any())
    assert torch.equal(torch.isinf(low), torch.isinf(high))
