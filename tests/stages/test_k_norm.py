"""What LayerNorm gets: now and then rows whose mean is large beside their spread, and no bias."""

import torch

from indexfuzz.core.case import Case
from indexfuzz.samples.materialise import materialise
from indexfuzz.stages.k_norm import OFFSET, norm_tensors

CASE = Case().replace(batch={"prefill": ({"length": 5, "new": 5},)}, memory={"k_pad": 16})


def test_rows_with_a_large_mean_and_rows_without_bias_are_among_them():
    shifted, unbiased = 0, 0
    for seed in range(64):
        step = materialise(CASE.replace(values={"seed": seed}))
        t = norm_tensors(step)
        assert norm_tensors(step) == t
        if t["k"] is not step.tensors["k"]:
            shifted += 1
            assert t["k"].stride() == step.tensors["k"].stride()
            assert bool(((t["k"].float().mean(1) - OFFSET).abs() < 8).all())
        unbiased += not bool(t["k_norm_bias"].any())
        assert not torch.equal(t["k_norm_weight"], torch.ones(32))
    assert 2 < shifted < 16
    assert 8 < unbiased < 26
