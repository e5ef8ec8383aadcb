import math
from fractions import Fraction

import pytest
import torch

from indexfuzz.reference import fp8, intervals, legal
from indexfuzz.reference.arithmetic import PORTABLE, PRESETS, Arithmetic, U
from indexfuzz.reference.quant import quantise, row_scale

FP32 = torch.float32


def options(tensor: torch.Tensor) -> list[set[float]]:
    return [set(row) for row in tensor.tolist()]


def round32(x: Fraction) -> float:
    """Correctly rounded fp32 of a positive normal rational."""
    k = math.floor(math.log2(x)) - 23
    scaled = x / Fraction(2) ** k
    low = scaled.numerator // scaled.denominator
    rest = scaled - low
    up = rest > Fraction(1, 2) or (rest == Fraction(1, 2) and low % 2 == 1)
    return float((low + up) * Fraction(2) ** k)


def test_fma32_rounds_once() -> None:
    torch.manual_seed(0)
    scale = torch.exp2(torch.randint(-30, 30, (3, 3000)).float())
    a, b, c = torch.randn(3, 3000) * scale
    got = legal.fma32(a, b, c).tolist()
    for x, y, z, value in zip(a.tolist(), b.tolist(), c.tolist(), got, strict=True):
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        assert value == math.copysign(round32(abs(exact)), exact)


def test_fma32_where_two_roundings_differ() -> None:
    a = torch.tensor([1 + 2.0**-12])  # its square is a tie: 1 + 2**-11 + 2**-24
    assert float(legal.fma32(a, a, torch.tensor([-(2.0**-60)]))) == 1 + 2.0**-11
    assert float(legal.fma32(a, a, torch.tensor([2.0**-60]))) == 1 + 2.0**-11 + 2.0**-23


@pytest.mark.parametrize("fmt", ["e4m3fn", "e4m3fnuz"])
@pytest.mark.parametrize("name", ["portable", "ieee", "sm90", "sm89"])
def test_bf16_rows_have_one_power_of_two(fmt: str, name: str) -> None:
    amax = torch.arange(1, 0x7F80, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).view(-1, 1)
    found = legal.legal_scales(amax, scale_fmt="ue8m0", fp8=fmt, arithmetic=PRESETS[name])
    assert bool((found == row_scale(amax, scale_fmt="ue8m0", fp8=fmt).unsqueeze(-1)).all())


@pytest.mark.parametrize("fmt", ["e4m3fn", "e4m3fnuz"])
@pytest.mark.parametrize("reciprocal", [False, True])
def test_fp32_amax_by_a_correctly_rounded_log2_is_legal(fmt: str, reciprocal: bool) -> None:
    c = fp8.C[fmt]
    base = torch.tensor([c * 2.0**k for k in range(-22, 30)])
    amax = torch.stack([(base.view(torch.int32) + step).view(FP32) for step in range(-16, 17)], -1).reshape(-1, 1)
    amax = amax[amax >= fp8.AMAX_FLOOR].unsqueeze(1)
    divisor = torch.full_like(amax, c)
    ratio = amax * (1 / divisor) if reciprocal else amax / divisor
    log = torch.log2(ratio.double()).float()  # fp64 log2, rounded to fp32: correctly rounded but for fp64's own error
    scale = torch.exp2(log.ceil().double()).float()
    found = legal.legal_scales(amax, scale_fmt="ue8m0", fp8=fmt)
    assert bool((found == scale).any(-1).all())
    two = (found[:, 0] != found[:, 1]).sum()
    assert 0 < int(two) < len(amax) // 2


def test_ue8m0_window_ends() -> None:
    """k = -10 below: w = ln2 * 2**(3 - 24), 4u for the division."""
    below = 448 * 2.0**-10
    window = math.log(2) * 2.0**-21 + 4 * U
    inside, outside = (torch.tensor([[below * (1 + window)]]).clone() for _ in range(2))
    inside = torch.nextafter(inside, torch.tensor(0.0))
    outside = torch.nextafter(outside, torch.tensor(9.0))
    assert options(legal.legal_scales(inside, scale_fmt="ue8m0", fp8="e4m3fn")) == [{2.0**-10, 2.0**-9}]
    assert options(legal.legal_scales(outside, scale_fmt="ue8m0", fp8="e4m3fn")) == [{2.0**-9}]
    exact = torch.tensor([[below]])
    assert options(legal.legal_scales(exact, scale_fmt="ue8m0", fp8="e4m3fn")) == [{2.0**-10}]
    loose = legal.legal_scales(exact, scale_fmt="ue8m0", fp8="e4m3fn", arithmetic=PRESETS["cdna3"])
    assert options(loose) == [{2.0**-10, 2.0**-9}]


@pytest.mark.parametrize("c", [448, 224])
def test_fp32_scales_by_contract(c: int) -> None:
    fmt = {448: "e4m3fn", 224: "e4m3fnuz"}[c]
    torch.manual_seed(c)
    x = torch.randn(400, 8).bfloat16()
    amax = x.float().abs().amax(1)
    ieee = [round32(Fraction(a) / c) for a in amax.tolist()]
    reciprocal = [round32(Fraction(a) * Fraction(round32(Fraction(1, c)))) for a in amax.tolist()]

    def found(name: str) -> list[set[float]]:
        arithmetic = Arithmetic(amax_division=name)  # type: ignore[arg-type]
        return options(legal.legal_scales(x, scale_fmt="fp32", fp8=fmt, arithmetic=arithmetic))

    assert found("ieee") == [{s} for s in ieee]
    assert found("reciprocal") == [{s} for s in reciprocal]
    assert found("portable") == [{s, r} for s, r in zip(ieee, reciprocal, strict=True)]
    for a, s, legal_ones in zip(amax.tolist(), ieee, found("unknown"), strict=True):
        limit = 3 * Fraction(U) * (1 + Fraction(U)) * Fraction(a) / c
        near = [float(torch.tensor([s]).view(torch.int32).add(i).view(FP32)) for i in range(-9, 10)]
        assert legal_ones == {v for v in near if abs(Fraction(v) - Fraction(a) / c) <= limit}


def test_a_contract_may_scale_to_another_magnitude() -> None:
    x = torch.tensor([[240.0, 1.0], [241.0, 1.0], [480.0, 1.0]]).bfloat16()
    full = Arithmetic(largest=240.0)
    assert options(legal.legal_scales(x, scale_fmt="ue8m0", fp8="e4m3fnuz", arithmetic=full)) == [{1.0}, {2.0}, {2.0}]
    assert options(legal.legal_scales(x, scale_fmt="fp32", fp8="e4m3fnuz", arithmetic=full))[2] == {2.0}


def test_zero_rows_take_the_clamp() -> None:
    x = torch.zeros(2, 8).bfloat16()
    assert options(legal.legal_scales(x, scale_fmt="ue8m0", fp8="e4m3fn")) == [{2.0**-22}] * 2
    clamped = {float(torch.tensor(1e-4) / torch.tensor(448.0)), float(torch.tensor(1e-4) * (1 / torch.tensor(448.0)))}
    assert options(legal.legal_scales(x, scale_fmt="fp32", fp8="e4m3fn")) == [clamped] * 2


@pytest.mark.parametrize("fmt", ["e4m3fn", "e4m3fnuz"])
def test_power_of_two_scales_leave_one_code(fmt: str) -> None:
    x = torch.arange(-0x8000, 0x8000, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    x = x[torch.isfinite(x)].unsqueeze(1)
    scale = row_scale(x, scale_fmt="ue8m0", fp8=fmt)
    want = fp8.codes(quantise(x, scale, fp8=fmt))
    for arithmetic in (PORTABLE, PRESETS["sm90"], PRESETS["unknown"]):
        low, high = legal.legal_codes(x, scale, fp8=fmt, arithmetic=arithmetic)
        assert torch.equal(low, want)
        assert torch.equal(high, want)


@pytest.mark.parametrize("fmt", ["e4m3fn", "e4m3fnuz"])
def test_every_division_method_is_within_its_own_set_and_within_full(fmt: str) -> None:
    torch.manual_seed(3)
    x = torch.randn(4000, 32).bfloat16()
    scale = row_scale(x, scale_fmt="fp32", fp8=fmt)
    s = scale.unsqueeze(1)
    quotients = {"ieee": x.float() / s, "reciprocal": x.float() * (1 / s)}
    exact = x.double() / s.double()
    inexact = torch.frexp(s).mantissa != 0.5  # div.full is exact for powers of two
    for units in (-2, -1, 1, 2):
        quotients[f"full {units}"] = (exact * torch.where(inexact, 1 + units * U, 1.0)).float()
    ambiguous = 0
    for name, quotient in quotients.items():
        contracts = ["full", "unknown"] + ([name, "portable"] if " " not in name else [])
        code = fp8.encode(quotient, fmt)
        for contract in contracts:
            low, high = legal.legal_codes(x, scale, fp8=fmt, arithmetic=Arithmetic(division=contract))  # type: ignore[arg-type]
            assert bool(((code == low) | (code == high)).all()), (name, contract)
            ambiguous = max(ambiguous, int((low != high).sum()))
    assert 0 < ambiguous < 0.02 * x.numel()


def test_two_legal_codes_are_neighbours() -> None:
    torch.manual_seed(4)
    x = torch.randn(4000, 32).bfloat16()
    scale = row_scale(x, scale_fmt="fp32", fp8="e4m3fn")
    low, high = legal.legal_codes(x, scale, fp8="e4m3fn", arithmetic=PRESETS["unknown"])
    assert bool(((low.int() & 0x7F) - (high.int() & 0x7F)).abs().le(1).all())
    assert torch.equal(low & 0x80, high & 0x80)


def test_ada_rounds_twice() -> None:
    x = torch.tensor([[float.fromhex("0x1.100002p-6")]])
    one = torch.ones(1)
    low, high = legal.legal_codes(x, one, fp8="e4m3fn", arithmetic=PRESETS["sm89"])
    assert (low.item(), high.item()) == (0x08, 0x08)
    assert [c.item() for c in legal.legal_codes(x, one, fp8="e4m3fn")] == [0x09, 0x09]


@pytest.mark.parametrize("sign", [1, -1])
def test_folded_weight_interval(sign: int) -> None:
    torch.manual_seed(5)
    heads, head_dim = 6, 128
    weights, scale = sign * torch.rand(500, heads), torch.rand(500, heads) + 2.0**-10
    low, high = legal.legal_weights(weights, scale, num_heads=heads, head_dim=head_dim)
    d, h = torch.tensor(head_dim**-0.5), torch.tensor(heads**-0.5)
    both = torch.tensor((head_dim * heads) ** -0.5)
    for value in (
        ((weights * scale) * d) * h,
        (weights * (d * h)) * scale,
        weights * (scale * both),
        (scale * h) * d * weights,
    ):
        assert bool(((value >= low) & (value <= high)).all())
    width = (high - low) / low.abs()
    assert float(width.max()) < 2**-19.9
    ends = torch.tensor([torch.finfo(torch.float32).max, 2.0**-149, 2.0**-126, -0.0]) * sign
    for power in (1.0, 0.5, 2.0**-9):
        s = torch.tensor(power)
        low, high = legal.legal_weights(ends, s, num_heads=heads, head_dim=head_dim)
        for value in (((ends * s) * d) * h, (ends * (d * h)) * s, ends * (s * both), (s * h) * d * ends):
            assert bool(((value >= low) & (value <= high)).all())
        assert float((high - low)[0] / low[0].abs()) < 2**-19.9
    low, high = legal.legal_weights(ends, torch.tensor(1.0 + 2.0**-23), num_heads=heads, head_dim=head_dim)
    assert torch.isinf(high).tolist() == [True, False, False, False]
    overflow = legal.legal_weights(torch.tensor([[1e30]]), torch.tensor([[1e10]]), num_heads=4, head_dim=4)
    assert [float(x) for x in overflow] == [-math.inf, math.inf]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("style", "placement"), [("neox", "first"), ("interleaved", "last")])
def test_rope_candidates_hold_every_contraction(dtype: torch.dtype, style: str, placement: str) -> None:
    torch.manual_seed(6)
    q = torch.randn(8000, 2, 32).bfloat16()
    angle = torch.rand(50, 8) * 7
    table = torch.cat([angle.cos(), angle.sin()], 1).to(dtype)
    positions = torch.randint(0, 50, (8000,))
    found = legal.legal_rope(q, positions, table, rope_dim=16, style=style, placement=placement)
    assert found.shape == (3, *q.shape)
    start = 0 if placement == "first" else 16
    left, right = (slice(0, 8), slice(8, 16)) if style == "neox" else (slice(0, 16, 2), slice(1, 16, 2))
    row = table[positions].double().unsqueeze(1)
    rotated = q[..., start : start + 16].double()
    a, b, cos, sin = rotated[..., left], rotated[..., right], row[..., :8], row[..., 8:]
    spread = (a * cos).abs() + (b * sin).abs()
    for candidate in found:
        out = candidate[..., start : start + 16].double()
        error = (out[..., left] - (a * cos - b * sin)).abs()
        assert bool((error <= spread * (2.0**-23) + (a * cos - b * sin).abs() * 2.0**-8).all())
        rest = [d for d in range(32) if not start <= d < start + 16]
        assert torch.equal(candidate[..., rest], q[..., rest])
    several = int((found != found[0]).any(0).sum())
    # Products of two bf16 values are exact in fp32: nothing to contract.
    assert 0 < several < 0.01 * q.numel() if dtype == torch.float32 else several == 0
    k = q[:, 0]
    assert torch.equal(
        legal.legal_rope(k, positions, table, rope_dim=16, style=style, placement=placement), found[:, :, 0]
    )


def test_the_floor_below_a_row_is_that_of_the_arithmetic() -> None:
    x = torch.full((1, 32), 1e-5).bfloat16()
    scales = {
        floor: legal.legal_scales(x, scale_fmt="ue8m0", fp8="e4m3fn", arithmetic=Arithmetic(amax_floor=floor))
        for floor in (1e-4, 1e-6)
    }
    assert scales[1e-4].unique().tolist() == [2.0**-22]
    assert scales[1e-6].unique().tolist() == [2.0**-25]
    again = intervals.scales_between(intervals.Interval.exact(x), fp8="e4m3fn", arithmetic=Arithmetic(amax_floor=1e-6))
    assert again.unique().tolist() == [2.0**-25]
