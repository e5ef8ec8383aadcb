from fractions import Fraction

import pytest
import torch

from indexfuzz.reference import fp8
from indexfuzz.reference.quant import q_quant, quantise, row_scale

FLOOR = Fraction(float(torch.tensor(1e-4)))


def power_by_search(amax: Fraction, c: int) -> float:
    k = -140
    while max(amax, FLOOR) > c * Fraction(2) ** k:
        k += 1
    return float(Fraction(2) ** k)


@pytest.mark.parametrize("fmt", ["e4m3fn", "e4m3fnuz"])
def test_ue8m0_scale_of_every_positive_bf16(fmt: str) -> None:
    amax = torch.arange(1, 0x7F80, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).view(-1, 1)
    scale = row_scale(amax, scale_fmt="ue8m0", fp8=fmt)
    mantissa, _ = torch.frexp(scale)
    assert bool((mantissa == 0.5).all())
    c = int(fp8.C[fmt])
    exact = torch.clamp_min(amax.double().squeeze(1), float(FLOOR))
    assert bool((exact <= c * scale.double()).all())
    assert bool((exact > c * scale.double() / 2).all())
    for i in range(0, len(amax), 997):
        assert float(scale[i]) == power_by_search(Fraction(float(amax[i])), c)


@pytest.mark.parametrize("fmt", ["e4m3fn", "e4m3fnuz"])
def test_ue8m0_scale_beside_powers_of_two(fmt: str) -> None:
    c = fp8.C[fmt]
    base = torch.tensor([c * 2.0**k for k in range(-20, 20)])
    for amax in (base, torch.nextafter(base, torch.tensor(0.0)), torch.nextafter(base, torch.tensor(1e9))):
        scale = row_scale(amax.unsqueeze(1), scale_fmt="ue8m0", fp8=fmt)
        assert scale.tolist() == [power_by_search(Fraction(a), int(c)) for a in amax.tolist()]


def test_fp32_scale_is_the_rounded_quotient() -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 32).bfloat16()
    scale = row_scale(x, scale_fmt="fp32", fp8="e4m3fn")
    for row, s in zip(x, scale, strict=True):
        exact = Fraction(float(row.abs().max())) / 448
        below, above = (float(torch.nextafter(s, torch.tensor(to))) for to in (0.0, 9.0))
        assert all(abs(Fraction(float(s)) - exact) <= abs(Fraction(other) - exact) for other in (below, above))


def test_zero_rows_and_special_values() -> None:
    x = torch.zeros(5, 4).bfloat16()
    x[1], x[2, 0], x[3, 1], x[4] = -0.0, float("nan"), float("inf"), float("nan")
    x[2, 1], x[3, 2] = 448.0, 1.0
    scale = row_scale(x, scale_fmt="ue8m0", fp8="e4m3fn")
    assert scale.tolist() == [2.0**-22, 2.0**-22, 1.0, float("inf"), 2.0**-22]
    codes = fp8.codes(quantise(x, scale, fp8="e4m3fn"))
    assert codes.tolist() == [[0] * 4, [0x80] * 4, [0x7F, 0x7E, 0, 0], [0, 0x7F, 0, 0], [0x7F] * 4]
    with pytest.raises(ValueError, match="scale_fmt"):
        row_scale(x, scale_fmt="fp16", fp8="e4m3fn")


@pytest.mark.parametrize("scale_fmt", ["ue8m0", "fp32"])
@pytest.mark.parametrize("fmt", ["e4m3fn", "e4m3fnuz"])
def test_q_quant_agrees_with_scalars(scale_fmt: str, fmt: str) -> None:
    torch.manual_seed(2)
    q, weights = torch.randn(3, 2, 16).bfloat16(), torch.randn(3, 2)
    q_fp8, q_weights = q_quant(q, weights, scale_fmt=scale_fmt, fp8=fmt)
    assert fp8.format_of(q_fp8) == fmt
    for t in range(3):
        for h in range(2):
            amax = max(Fraction(abs(v)) for v in q[t, h].tolist())
            s = Fraction(power_by_search(amax, int(fp8.C[fmt])))
            if scale_fmt == "fp32":
                s = Fraction(float(row_scale(q[t, h], scale_fmt="fp32", fp8=fmt)))
            want = [torch.tensor(v) / torch.tensor(float(s)) for v in q[t, h].tolist()]
            assert fp8.codes(q_fp8[t, h]).tolist() == fp8.encode(torch.stack(want), fmt).tolist()
            exact = float(weights[t, h]) * float(s) * (16 * 2) ** -0.5
            assert float(q_weights[t, h]) == pytest.approx(exact, rel=2.0**-23)


def test_no_tokens() -> None:
    q_fp8, q_weights = q_quant(torch.empty(0, 2, 16).bfloat16(), torch.empty(0, 2), scale_fmt="fp32", fp8="e4m3fn")
    assert tuple(q_fp8.shape) == (0, 2, 16)
    assert tuple(q_weights.shape) == (0, 2)
