"""Who is to blame for the scale of a key: the insertion, or what stands before it, where that may be so."""

import torch

from indexfuzz.core.guarantees import Guarantees
from indexfuzz.reference.cache import k_quant_cache
from indexfuzz.reference.intervals import Interval
from indexfuzz.reference.layout import read_tokens, write_tokens
from indexfuzz.stages.base import Call
from indexfuzz.stages.insertion import Keys, blame_by_place

OPTIONS = {"scale_fmt": "ue8m0", "fp8": "e4m3fn", "quant_group": 32, "layout": "normal"}
SLOTS = torch.tensor([1])


def blamed(key, *, inserted, scale=None):
    """Who is to blame where one key should be in the cache, and another was inserted, or its codes with a scale."""
    before = torch.full((2, 2, 36), 0xFF, dtype=torch.uint8)
    after = before.clone()
    k_quant_cache(inserted.bfloat16(), after, SLOTS, **OPTIONS)
    if scale:
        codes, _ = read_tokens(after, SLOTS, "normal")
        write_tokens(after, SLOTS, codes, torch.full((1,), scale), "normal")
    given = Call({"cache": before}, OPTIONS | {"rope_dim": 16, "placement": "last"})
    keys = Keys(Interval.exact(key), torch.tensor([0]), SLOTS)
    return blame_by_place(keys, given, after, Guarantees(), "k_norm")


def test_a_scale_that_no_key_nearby_has_is_the_insertions():
    key = torch.arange(1.0, 33.0)[None] * 9
    assert blamed(key, inserted=key / 2, scale=2.0) == "k_quant_cache"


def test_a_scale_that_a_key_nearby_has_may_be_anybodys():
    key = torch.arange(1.0, 33.0)[None] * 14
    key[0, 31] = 450.0
    beside = key.clone()
    beside[0, 31] = 448.0
    assert blamed(key, inserted=beside) == "k_norm or rope or k_quant_cache"
