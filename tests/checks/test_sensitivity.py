"""Planted mutations of a correct logits kernel: which tier sees which, and that none sees the correct one."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from indexfuzz.checks.logits import Expected, check_logits
from indexfuzz.core.finding import Finding
from indexfuzz.lockstep.arithmetic.matrix_units import MODELS
from indexfuzz.reference import bounds, fp8
from indexfuzz.reference.arithmetic import DOT_UNITS, PORTABLE, Arithmetic
from indexfuzz.reference.quant import q_quant, quantise, row_scale

ROWS, KEYS, HEADS, HEAD_DIM = 4, 32, 16, 128
FMT = "e4m3fn"


@dataclass(frozen=True)
class Inputs:
    q: Tensor
    k: Tensor
    scale: Tensor
    weights: Tensor


def gaussian(seed: int) -> Inputs:
    torch.manual_seed(seed)
    q8, w = q_quant(torch.randn(ROWS, HEADS, HEAD_DIM).bfloat16(), torch.randn(ROWS, HEADS), scale_fmt="ue8m0", fp8=FMT)
    k = torch.randn(KEYS, HEAD_DIM).bfloat16()
    scale = row_scale(k, scale_fmt="ue8m0", fp8=FMT) * torch.exp2(torch.randint(-1, 2, (KEYS,)).float())
    return Inputs(q8, quantise(k, scale, fp8=FMT), scale, w)


def exact(seed: int) -> Inputs:
    torch.manual_seed(seed)
    q, k = torch.randint(-9, 10, (ROWS, HEADS, HEAD_DIM)).float(), torch.randint(-9, 10, (KEYS, HEAD_DIM)).float()
    weights = torch.randint(1, 8, (ROWS, HEADS)) / 8.0
    scale = torch.exp2(torch.randint(-3, 4, (KEYS,)).float())
    return Inputs(*(fp8.as_fp8(fp8.encode(x, FMT), FMT) for x in (q, k)), scale, weights)


def ieee(q: Tensor, k: Tensor) -> Tensor:
    return _unit("ieee", q, k)


def qgmma(q: Tensor, k: Tensor) -> Tensor:
    return _unit("sm90", q, k)


def _unit(name: str, q: Tensor, k: Tensor) -> Tensor:
    a = np.ascontiguousarray(fp8.decode(fp8.codes(q), FMT).numpy().reshape(1, -1, q.shape[-1]))
    b = np.ascontiguousarray(fp8.decode(fp8.codes(k), FMT).numpy().reshape(1, -1, k.shape[-1]).transpose(0, 2, 1))
    acc = np.zeros((1, a.shape[1], b.shape[2]), np.float32)
    return torch.from_numpy(MODELS[name](a, b, acc, FMT, FMT)).view(*q.shape[:-1], b.shape[2])


def kernel(x: Inputs, dot: bounds.Dot) -> Tensor:
    """fp32 in another order than the reference's."""
    scores = dot(x.q, x.k).relu()
    total = torch.zeros(ROWS, KEYS)
    for h in range(HEADS):
        total = total + scores[:, h] * x.weights[:, h, None]
    return total * x.scale


def judge(x: Inputs, got: Tensor, arithmetic: Arithmetic, dot: bounds.Dot | None = None) -> Finding | None:
    ks, ke = torch.zeros(ROWS, dtype=torch.int32), torch.full((ROWS,), KEYS, dtype=torch.int32)
    simulated = None if dot is None else lambda q, k: dot(q[0], k[0])[None]
    limits = bounds.prefill_bounds(x.q, x.k, x.scale, x.weights, ks, ke, arithmetic=arithmetic, simulated_dot=simulated)
    return check_logits(got, Expected(*limits))[0]


def one_code(x: Inputs, dot: bounds.Dot) -> Tensor:
    codes = fp8.codes(x.k).clone()
    codes[5, 40] ^= 1
    return kernel(replace(x, k=fp8.as_fp8(codes, FMT)), dot)


def without_dim(x: Inputs, dot: bounds.Dot) -> Tensor:
    codes = fp8.codes(x.k).clone()
    codes[:, HEAD_DIM - 1] = 0
    return kernel(replace(x, k=fp8.as_fp8(codes, FMT)), dot)


def without_head(x: Inputs, dot: bounds.Dot) -> Tensor:
    return kernel(replace(x, weights=x.weights * (torch.arange(HEADS) < HEADS - 1)), dot)


def no_relu_on_one_head(x: Inputs, dot: bounds.Dot) -> Tensor:
    negative = dot(x.q, x.k)[:, 3].clamp_max(0)
    return kernel(x, dot) + negative * x.weights[:, 3, None] * x.scale


def relu_after_sum(x: Inputs, dot: bounds.Dot) -> Tensor:
    return torch.einsum("mhn,mh->mn", dot(x.q, x.k), x.weights).relu() * x.scale


def swapped_heads(x: Inputs, dot: bounds.Dot) -> Tensor:
    order = torch.arange(HEADS)
    order[2], order[7] = 7, 2
    return kernel(replace(x, weights=x.weights[:, order]), dot)


def neighbour_s_scale(x: Inputs, dot: bounds.Dot) -> Tensor:
    return kernel(replace(x, scale=x.scale.roll(1)), dot)


def lost_token(x: Inputs, dot: bounds.Dot) -> Tensor:
    got = kernel(x, dot)
    got[:, 17] = 0
    return got


def swapped_tokens(x: Inputs, dot: bounds.Dot) -> Tensor:
    order = torch.arange(KEYS)
    order[4], order[5] = 5, 4
    return kernel(x, dot)[:, order]


def stale_column(x: Inputs, dot: bounds.Dot) -> Tensor:
    got = kernel(x, dot)
    got[1] = got[0]
    return got


def scaled_by_31_32(x: Inputs, dot: bounds.Dot) -> Tensor:
    return kernel(x, dot) * (31 / 32)


def bf16_weights(x: Inputs, dot: bounds.Dot) -> Tensor:
    return kernel(replace(x, weights=x.weights.bfloat16().float()), dot)


def bf16_output(x: Inputs, dot: bounds.Dot) -> Tensor:
    return kernel(x, dot).bfloat16().float()


def scale_one_ulp_up(x: Inputs, dot: bounds.Dot) -> Tensor:
    return kernel(replace(x, scale=torch.nextafter(x.scale, torch.tensor(9.0))), dot)


Mutation = Callable[[Inputs, bounds.Dot], Tensor]

SEEN_BY_ALL: list[Mutation] = [
    one_code,
    without_dim,
    without_head,
    no_relu_on_one_head,
    relu_after_sum,
    swapped_heads,
    neighbour_s_scale,
    lost_token,
    swapped_tokens,
    stale_column,
    scaled_by_31_32,
]
SEEN_BY_PRECISE_TIERS: list[Mutation] = [bf16_weights, bf16_output]


@pytest.mark.parametrize("dot", [ieee, qgmma])
def test_the_correct_kernel_is_never_flagged(dot: bounds.Dot) -> None:
    unit = Arithmetic(DOT_UNITS["ieee" if dot is ieee else "sm90-qgmma"])
    for seed in range(30):
        for x in (gaussian(seed), exact(seed)):
            got = kernel(x, dot)
            assert judge(x, got, unit) is None
            assert judge(x, got, unit, dot) is None


@pytest.mark.parametrize("mutation", SEEN_BY_ALL + SEEN_BY_PRECISE_TIERS)
def test_fp32_bounds_see_it(mutation: Mutation) -> None:
    for seed in range(10):
        x = gaussian(seed)
        found = judge(x, mutation(x, ieee), PORTABLE)
        assert found is not None
        assert (found.kind, found.tier) == ("bound-exceeded", "T3")


@pytest.mark.parametrize("mutation", SEEN_BY_ALL + SEEN_BY_PRECISE_TIERS)
def test_a_simulated_unit_sees_it(mutation: Mutation) -> None:
    for seed in range(10):
        x = gaussian(seed)
        found = judge(x, mutation(x, qgmma), Arithmetic(DOT_UNITS["sm90-qgmma"]), qgmma)
        assert found is not None
        assert found.tier == "T1"


@pytest.mark.parametrize("mutation", [*SEEN_BY_ALL, bf16_output, scale_one_ulp_up])
@pytest.mark.parametrize("dot", [ieee, qgmma])
def test_exact_data_shows_it_without_tolerance(mutation: Mutation, dot: bounds.Dot) -> None:
    unit = Arithmetic(DOT_UNITS["ieee" if dot is ieee else "sm90-qgmma"])
    for seed in range(10):
        x = exact(seed)
        found = judge(x, mutation(x, dot), unit)
        assert found is not None
        assert found.tier == "T0"


def wrong_in(found: Finding) -> int:
    """How many elements are wrong, as the detail says."""
    return int(re.search(r"(\d+) of \d+ wrong", found.detail)[1])


def test_the_ordered_bound_sees_more_than_the_free_one() -> None:
    """On sm_90 the order-free bound hardly notices a dropped dim; the ordered one does."""
    free = Arithmetic(replace(DOT_UNITS["sm90-qgmma"], in_order=False))
    for seed in range(5):
        x = gaussian(seed)
        got = without_dim(x, qgmma)
        found, hardly = judge(x, got, Arithmetic(DOT_UNITS["sm90-qgmma"])), judge(x, got, free)
        assert found is not None
        assert found.tier == "T2"
        assert hardly is None or wrong_in(hardly) < wrong_in(found) / 4


def test_the_words_for_some_of_them() -> None:
    x = gaussian(0)
    found = judge(x, kernel(x, ieee) * 2, PORTABLE)
    assert found is not None
    assert "every wrong value is 2 times the right one" in found.detail
    found = judge(x, lost_token(x, ieee), PORTABLE)
    assert found is not None
    assert "only column 17; the wrong ones are all zero" in found.detail
    found = judge(x, stale_column(x, ieee), PORTABLE)
    assert found is not None
    assert "only row 1; each holds what belongs to the row before it" in found.detail
    found = judge(x, swapped_tokens(x, ieee), PORTABLE)
    assert found is not None
    assert "column 4 is column 5 of the reference, column 5 is column 4 of the reference" in found.detail
