"""Intervals hold what fp32 makes of the steps in between, and end right behind it."""

import pytest
import torch

from indexfuzz.reference import fp8, intervals
from indexfuzz.reference.intervals import Interval
from indexfuzz.reference.legal import legal_rope
from indexfuzz.samples.regimes import dense, rope_table

EPS = 1e-6
ROPE = {"rope_dim": 16, "style": "neox", "placement": "first"}


def rows(regime="normal", key=1, tokens=40):
    return dense(regime, key, (tokens, 32), "e4m3fn").bfloat16()


def affine():
    return 1 + dense("normal", 2, (1, 32), "e4m3fn")[0].float() / 4, dense("normal", 3, (1, 32), "e4m3fn")[0].float()


def norm_in_fp32(x, weight, bias):
    mean = x.float().sum(1, keepdim=True) / 32
    centred = x.float() - mean
    return centred * torch.rsqrt((centred * centred).sum(1, keepdim=True) / 32 + EPS) * weight + bias


def within(x, interval):
    return bool(((x.double() >= interval.low) & (x.double() <= interval.high)).all())


@pytest.mark.parametrize("regime", ["normal", "exact", "outlier", "tied", "clamp", "cancelling", "zeros", "subnormal"])
def test_fp32_layer_norm_lies_in_its_interval(regime):
    x, (weight, bias) = rows(regime), affine()
    got = intervals.normalised(x, weight, bias, EPS)
    assert within(norm_in_fp32(x, weight, bias), got)
    order = torch.arange(31, -1, -1)
    assert within(norm_in_fp32(x[:, order], weight[order], bias[order])[:, order], got)


@pytest.mark.parametrize("wrong", ["eps", "bf16 mean", "divisor", "no bias"])
def test_a_wrong_layer_norm_leaves_its_interval(wrong):
    x, (weight, bias) = rows() / 64, affine()
    interval = intervals.normalised(x, weight, bias, EPS)
    values = x.float()
    mean = values.mean(1, keepdim=True)
    mean = mean.bfloat16().float() if wrong == "bf16 mean" else mean
    centred = values - mean
    variance = (centred * centred).sum(1, keepdim=True) / (31 if wrong == "divisor" else 32)
    got = centred * torch.rsqrt(variance + (1e-5 if wrong == "eps" else EPS)) * weight
    assert not within(got if wrong == "no bias" else got + bias, interval)


def test_layer_norm_is_known_to_a_ten_thousandth_and_not_at_all_where_it_overflows():
    x, (weight, bias) = rows(), affine()
    low, high = intervals.normalised(x, weight, bias, EPS)
    assert float((high - low).max()) < 1e-4
    low, high = intervals.normalised(x * 2.0**70, weight, bias, EPS)
    assert bool(torch.isinf(low).all())
    assert bool(torch.isinf(high).all())


def test_rope_of_exact_values_ends_at_its_smallest_and_largest_candidate():
    x, positions, table = rows(), torch.arange(40), rope_table("normal", 5, 40, 16)
    got = intervals.rotated_exactly(x, positions, table, **ROPE)
    candidates = legal_rope(x, positions, table, **ROPE, dtype=torch.float32).double()
    assert torch.equal(got.low, candidates.amin(0))
    assert torch.equal(got.high, candidates.amax(0))
    wider = intervals.rotated(Interval.exact(x), positions, table, **ROPE)
    assert bool((wider.low <= got.low).all())
    assert bool((wider.high >= got.high).all())
    assert not within(candidates[0] * (1 + 2.0**-20), wider)


def test_what_overflows_stays_unknown_through_rope():
    x, (weight, bias) = rows() * 2.0**70, affine()
    table = rope_table("normal", 5, 40, 32)
    got = intervals.rotated(
        intervals.normalised(x, weight, bias, EPS), torch.arange(40), table, **ROPE | {"rope_dim": 32}
    )
    assert bool(torch.isinf(got.low).all())
    assert bool(torch.isinf(got.high).all())


def test_what_is_kept_between_two_steps_is_rounded_stored_or_either():
    x = Interval.exact(torch.tensor([1.001, -3.0]))
    assert intervals.rounded(x, "fp32") is x
    stored = intervals.rounded(x, "bf16")
    assert stored.low.tolist() == stored.high.tolist() == [1.0, -3.0]
    either = intervals.rounded(x, "unknown")
    assert either.low.tolist() == [1.0, -3.0]
    assert either.high.tolist() == x.high.tolist()


def test_the_scale_follows_the_largest_element_to_the_last_value_that_has_it():
    edge = 448.0 * 2.0**-5
    last = Interval(torch.tensor([[edge / 2, -edge]]).double(), torch.tensor([[edge, -edge / 4]]).double())
    assert set(intervals.scales_between(last, fp8="e4m3fn")[0].tolist()) == {2.0**-6, 2.0**-5}
    beyond = Interval(last.low, last.high * (1 + 2.0**-20))
    assert set(intervals.scales_between(beyond, fp8="e4m3fn")[0].tolist()) == {2.0**-6, 2.0**-5, 2.0**-4}
    exact = Interval.exact(torch.tensor([[edge, 0.0]]))
    assert set(intervals.scales_between(exact, fp8="e4m3fn")[0].tolist()) == {2.0**-5}


@pytest.mark.parametrize("form", ["e4m3fn", "e4m3fnuz"])
def test_the_codes_are_those_of_both_ends(form):
    x = Interval(torch.tensor([[1.0624, -1e-9, 2.0]]).double(), torch.tensor([[1.0626, 1e-9, 2.0]]).double())
    low, high = intervals.codes_between(x, torch.ones(1), fp8=form)
    one = int(fp8.encode(torch.tensor([1.0]), form))
    assert [int(low[0, 0]), int(high[0, 0])] == [one, one + 1]
    assert int(low[0, 2]) == int(high[0, 2])
    assert [int(low[0, 1]), int(high[0, 1])] == ([0x80, 0] if form == "e4m3fn" else [0, 0])


def butterflies(x):
    """The Walsh-Hadamard transform of rows of x in fp32, stage by stage, over the root of their length."""
    for stage in range(x.shape[1].bit_length() - 1):
        pairs = x.view(len(x), -1, 2, 1 << stage)
        first, second = pairs[:, :, 0], pairs[:, :, 1]
        x = torch.stack([first + second, first - second], 2).view(x.shape)
    return x * torch.tensor(x.shape[1] ** -0.5)


@pytest.mark.parametrize("regime", ["normal", "exact", "outlier", "tied", "cancelling", "zeros"])
def test_fp32_rotation_lies_in_its_interval_in_any_order(regime):
    x = rows(regime).float()
    got = intervals.hadamard(Interval.exact(x))
    assert within(butterflies(x), got)
    assert within(x @ butterflies(torch.eye(32)), got)
    wider = intervals.hadamard(Interval(x.double() - x.abs().double() / 256, x.double() + x.abs().double() / 256))
    assert bool((wider.low <= got.low).all())
    assert bool((wider.high >= got.high).all())
    assert within(butterflies(x * (1 + 2.0**-8)), wider)
    assert within(butterflies(x * (1 - 2.0**-8)), wider)


def test_a_wrong_rotation_leaves_its_interval_and_one_that_overflows_is_unknown():
    x = rows().float()
    got = intervals.hadamard(Interval.exact(x))
    assert not within(x, got)
    assert not within(butterflies(x) * (1 + 2.0**-15), got)
    assert not within(butterflies(x).flip(1), got)
    low, high = intervals.hadamard(Interval.exact(x * 2.0**125))
    assert bool((low == float("-inf")).any())
    assert torch.equal(low.isinf(), high.isinf())


def rotated_in_bf16(x, positions, table):
    a, b = x[:, :8], x[:, 8:16]
    cos, sin = (part[positions] for part in (table[:, :8], table[:, 8:]))
    return torch.cat([a * cos - b * sin, b * cos + a * sin, x[:, 16:]], 1)


@pytest.mark.parametrize("regime", ["normal", "outlier", "cancelling", "subnormal"])
def test_products_in_bf16_are_known_to_the_bit(regime):
    x, positions = rows(regime), torch.arange(40) % 7
    table = rope_table("normal", 9, 7, 16).bfloat16()
    want = rotated_in_bf16(x, positions, table)
    assert want.dtype == torch.bfloat16
    found = legal_rope(x, positions, table, products="bf16", **ROPE)
    assert len(found) == 1
    assert torch.equal(found[0], want)
    low, high = intervals.rotated(Interval.exact(x), positions, table, products="bf16", **ROPE)
    assert torch.equal(low, high)
    assert torch.equal(low, want.double())


def test_products_that_are_unknown_may_be_of_either_kind():
    x, positions, table = rows(), torch.arange(40) % 7, rope_table("normal", 9, 7, 16).bfloat16()
    in_bf16 = rotated_in_bf16(x, positions, table)
    in_fp32 = legal_rope(x, positions, table, **ROPE)
    either = legal_rope(x, positions, table, products="unknown", **ROPE)
    assert bool((either == in_bf16).any(0).all())
    assert bool((either.unsqueeze(1) == in_fp32).any(0).all())
    assert not bool((in_fp32 == in_bf16).any(0).all())
    free = intervals.rotated(Interval.exact(x), positions, table, products="unknown", **ROPE)
    kept = legal_rope(x, positions, table, dtype=torch.float32, **ROPE)
    assert within(in_bf16, free)
    assert all(within(candidate, free) for candidate in kept)
    assert not within(kept[0], intervals.rotated(Interval.exact(x), positions, table, products="bf16", **ROPE))
    kinds = intervals.rotated_exactly(x, positions, table, products="unknown", **ROPE)
    assert within(in_bf16, kinds)
    assert all(within(candidate, kinds) for candidate in kept)


def rms_in_fp32(x, weight, eps):
    values = x.float()
    return values * torch.rsqrt((values * values).sum(1, keepdim=True) / x.shape[1] + eps) * weight


@pytest.mark.parametrize("regime", ["normal", "exact", "outlier", "tied", "clamp", "cancelling", "zeros", "subnormal"])
def test_fp32_rms_norm_lies_in_its_interval(regime):
    """In either order, and of every value between two ends."""
    x, (weight, _) = rows(regime), affine()
    exactly = intervals.rms_normalised(Interval.exact(x), weight, EPS)
    order = torch.arange(31, -1, -1)
    assert within(rms_in_fp32(x, weight, EPS), exactly)
    assert within(rms_in_fp32(x[:, order], weight[order], EPS)[:, order], exactly)
    ends = [(x.double() * factor).float() for factor in (1 - 2.0**-9, 1.0, 1 + 2.0**-9)]
    stack = torch.stack(ends).double()
    between = intervals.rms_normalised(Interval(stack.amin(0), stack.amax(0)), weight, EPS)
    assert all(within(rms_in_fp32(end, weight, EPS), between) for end in ends)


@pytest.mark.parametrize("wrong", ["eps", "mean is taken off", "divisor", "weight of the neighbour", "a unit beyond"])
def test_a_wrong_rms_norm_leaves_its_interval(wrong):
    x, (weight, _) = rows() / 64, affine()
    interval = intervals.rms_normalised(Interval.exact(x), weight, EPS)
    values = x.float()
    got = {
        "eps": lambda: rms_in_fp32(x, weight, 1e-5),
        "mean is taken off": lambda: rms_in_fp32(values - values.mean(1, keepdim=True), weight, EPS),
        "divisor": lambda: rms_in_fp32(x, weight, EPS) * (31 / 32) ** 0.5,
        "weight of the neighbour": lambda: rms_in_fp32(x, weight.roll(1), EPS),
        "a unit beyond": lambda: torch.nextafter(interval.high.float(), torch.tensor(float("inf"))).double() + 1e-30,
    }[wrong]()
    assert not within(got, interval)


def test_rms_norm_is_known_to_a_ten_thousandth_and_not_at_all_where_it_overflows():
    x, (weight, _) = rows(), affine()
    low, high = intervals.rms_normalised(Interval.exact(x), weight, EPS)
    assert float((high - low).max()) < 1e-4
    low, high = intervals.rms_normalised(Interval.exact(x * 2.0**70), weight, EPS)
    assert bool(torch.isinf(low).all())
    assert bool(torch.isinf(high).all())


def test_a_product_ends_at_the_products_of_ends():
    one = Interval(torch.tensor([-2.0, 1.0]).double(), torch.tensor([3.0, 2.0]).double())
    other = Interval(torch.tensor([-5.0, 4.0]).double(), torch.tensor([7.0, 4.0]).double())
    got = intervals.times(one, other)
    assert (got.low.tolist(), got.high.tolist()) == ([-15.0, 4.0], [21.0, 8.0])


def test_codes_of_4_bits_are_those_of_both_ends():
    """Of [-0.25, 0.25] zero alone, which a little more leaves; of [0.7499, 0.75] the numbers on both sides."""
    x = Interval(torch.tensor([[-0.25, -0.2501, 0.7499]]).double(), torch.tensor([[0.25, 0.25, 0.75]]).double())
    low, high = intervals.codes_between(x, torch.ones(1), fp8="e2m1")
    assert fp8.decode(low, "e4m3fn").tolist() == [[0.0, -0.5, 0.5]]
    assert fp8.decode(high, "e4m3fn").tolist() == [[0.0, 0.0, 1.0]]
    assert set(intervals.scales_between(x, fp8="e2m1")[0].tolist()) == {0.125}
