from functools import partial

import pytest
import torch
from torch import Tensor

from indexfuzz.checks.quant import Heads, LegalRows, check_folded_weights, check_rows, is_legal_scale
from indexfuzz.core.finding import Finding
from indexfuzz.reference import fp8, legal
from indexfuzz.reference.quant import q_quant, quantise, row_scale


def rows(x: Tensor, codes: Tensor, scales: Tensor, scale_fmt: str = "fp32", fmt: str = "e4m3fn") -> Finding | None:
    return check_rows("values", "scales", codes, scales, legal_rows(x, scale_fmt, fmt))


def legal_rows(x: Tensor, scale_fmt: str = "fp32", fmt: str = "e4m3fn") -> LegalRows:
    scales = legal.legal_scales(x, scale_fmt=scale_fmt, fp8=fmt)
    return LegalRows(scales, partial(legal.legal_codes, x, fp8=fmt), fp8.FORMATS[fmt].dtype)


def quantised(x: Tensor, scale_fmt: str, fmt: str) -> tuple[Tensor, Tensor]:
    scale = row_scale(x, scale_fmt=scale_fmt, fp8=fmt)
    return fp8.codes(quantise(x, scale, fp8=fmt)).clone(), scale


@pytest.mark.parametrize("scale_fmt", ["ue8m0", "fp32"])
@pytest.mark.parametrize("fmt", ["e4m3fn", "e4m3fnuz"])
def test_both_division_methods_pass(scale_fmt: str, fmt: str) -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        x = (torch.randn(64, 32) * torch.exp2(torch.randint(-12, 12, (64, 1)).float())).bfloat16()
        x[0], x[1], x[2, ::2] = 0.0, -0.0, 1e-5
        c = torch.tensor(fp8.C[fmt])
        amax = x.float().abs().amax(1).clamp_min(1e-4)
        scale = row_scale(x, scale_fmt=scale_fmt, fp8=fmt)
        for s in [scale] if scale_fmt == "ue8m0" else [scale, amax / c, amax * (1 / c)]:
            for quotient in (x.float() / s[:, None], x.float() * (1 / s)[:, None]):
                assert rows(x, fp8.encode(quotient, fmt), s, scale_fmt, fmt) is None


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("fmt", ["e4m3fn", "e4m3fnuz"])
def test_at_a_tie_one_code_passes_and_its_neighbours_fail(fmt: str, sign: float) -> None:
    c = fp8.C[fmt]
    for mid in [m for m in fp8.midpoints(fmt) if m < c][1::9]:
        x = torch.tensor([[c, sign * mid]]).bfloat16()
        codes, scale = quantised(x, "ue8m0", fmt)
        assert scale.item() == 1
        assert codes[0, 1] % 2 == 0
        assert rows(x, codes, scale, "ue8m0", fmt) is None
        for step in (-1, 1):
            wrong = codes.clone()
            wrong[0, 1] = int(codes[0, 1]) + step
            found = rows(x, wrong, scale, "ue8m0", fmt)
            assert found is not None
            assert (found.kind, found.output, found.index) == ("code-mismatch", "values", (0, 1))
            assert "1 of " in found.detail


def test_where_two_codes_are_legal_both_pass_and_a_third_fails() -> None:
    torch.manual_seed(0)
    x = torch.randn(4000, 32).bfloat16()
    codes, scale = quantised(x, "fp32", "e4m3fn")
    low, high = legal.legal_codes(x, scale, fp8="e4m3fn")
    assert int((low != high).sum()) > 10
    for choice in (low, high, torch.minimum(low, high), torch.maximum(low, high)):
        assert rows(x, choice, scale) is None
    row, dim = (low != high).nonzero()[0].tolist()
    for code in {int(low[row, dim]) - 1, int(low[row, dim]) + 1} - {int(high[row, dim])}:
        wrong = codes.clone()
        wrong[row, dim] = code
        found = rows(x, wrong, scale)
        assert found is not None
        assert " or " in found.want


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("scale_fmt", ["ue8m0", "fp32"])
def test_a_scale_one_ulp_off_fails(scale_fmt: str, sign: int) -> None:
    torch.manual_seed(1)
    x = torch.randn(8, 32).bfloat16()
    codes, scale = quantised(x, scale_fmt, "e4m3fn")
    allowed = legal.legal_scales(x, scale_fmt=scale_fmt, fp8="e4m3fn")
    edge = allowed[3].max() if sign > 0 else allowed[3].min()
    wrong = scale.clone()
    wrong[3] = edge
    quantise(x, wrong, fp8="e4m3fn")
    assert is_legal_scale(wrong, allowed).all()
    wrong[3] = torch.nextafter(edge, torch.tensor(sign * 9.0))
    found = rows(x, codes, wrong, scale_fmt)
    assert found is not None
    assert (found.output, found.index) == ("scales", (3,))
    assert "1 of 8 wrong" in found.detail
    assert found.detail.startswith("the scale of token 3 is ")


def test_a_doubled_scale_is_called_so() -> None:
    x = torch.randn(8, 32).bfloat16()
    codes, scale = quantised(x, "ue8m0", "e4m3fn")
    found = rows(x, codes, scale * 2, "ue8m0")
    assert found is not None
    assert "every wrong value is 2 times the right one" in found.detail


def test_a_scale_that_is_rounded_where_it_must_not_be_and_the_other_way_round() -> None:
    x = torch.randn(8, 32).bfloat16()
    for asked, done, words in (
        ("fp32", "ue8m0", "rounded up to a power of two, which is not asked for"),
        ("ue8m0", "fp32", "right before it is rounded up to a power of two"),
    ):
        codes, scale = quantised(x, done, "e4m3fn")
        found = rows(x, codes, scale, asked)
        assert found is not None
        assert (found.hint, words in found.detail) == (words, True)
    codes, scale = quantised(x, "ue8m0", "e4m3fn")
    found = rows(x, codes, torch.nextafter(scale, torch.zeros(())), "ue8m0")
    assert found is not None
    assert "power of two" not in found.detail


def test_zero_of_the_wrong_sign_fails() -> None:
    x = torch.tensor([[1.0, 0.0, -0.0, -1e-9]]).bfloat16()
    codes, scale = quantised(x, "ue8m0", "e4m3fn")
    assert codes[0, 1:].tolist() == [0, 0x80, 0x80]
    assert rows(x, codes, scale, "ue8m0") is None
    assert rows(x, torch.where(codes == 0x80, 0, codes).to(torch.uint8), scale, "ue8m0") is not None
    codes, scale = quantised(x, "ue8m0", "e4m3fnuz")
    assert codes[0, 1:].tolist() == [0, 0, 0]
    codes[0, 2] = 0x80
    found = rows(x, codes, scale, "ue8m0", "e4m3fnuz")
    assert found is not None
    assert found.got == "0x80 (nan)"


def test_overflow_saturates_and_nothing_else_passes() -> None:
    """The largest element divided by a scale that rounds down is just above C, and is C."""
    torch.manual_seed(2)
    x = torch.rand(500, 4).bfloat16()
    codes, scale = quantised(x, "fp32", "e4m3fn")
    assert bool((codes == 0x7E).any(1).all())
    assert rows(x, codes, scale) is None
    assert rows(x, torch.where(codes == 0x7E, 0x7F, codes).to(torch.uint8), scale) is not None


def test_names_of_rows_and_values() -> None:
    x = torch.randn(3, 4).bfloat16()
    codes, scale = quantised(x, "ue8m0", "e4m3fn")
    codes[1, 2] ^= 0x80
    found = check_rows("values", "scales", codes, scale, legal_rows(x, "ue8m0"), names=[4, 7, 9])
    assert found is not None
    assert found.index == (7, 2)
    assert found.detail.startswith("token 7, dim 2 is 0x")


def test_no_rows() -> None:
    assert rows(torch.empty(0, 4).bfloat16(), torch.empty((0, 4), dtype=torch.uint8), torch.empty(0)) is None


def fold(q: Tensor, weights: Tensor, codes: Tensor, got_weights: Tensor, scale_fmt: str = "fp32") -> Finding | None:
    heads, dim = q.shape[1:]
    legal_weights = partial(legal.legal_weights, weights, num_heads=heads, head_dim=dim)
    return check_folded_weights(Heads(codes, got_weights), legal_rows(q, scale_fmt), legal_weights)


@pytest.mark.parametrize("scale_fmt", ["ue8m0", "fp32"])
def test_folded_scales(scale_fmt: str) -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        q, weights = torch.randn(16, 4, 32).bfloat16(), torch.randn(16, 4)
        weights[0], weights[1] = 0.0, -0.0
        q_fp8, folded = q_quant(q, weights, scale_fmt=scale_fmt, fp8="e4m3fn")
        codes = fp8.codes(q_fp8)
        assert fold(q, weights, codes, folded, scale_fmt) is None
        other = weights * (32**-0.5) * row_scale(q, scale_fmt=scale_fmt, fp8="e4m3fn") * 0.5
        assert fold(q, weights, codes, other, scale_fmt) is None
        found = fold(q, weights, codes, folded * 2, scale_fmt)
        assert found is not None
        assert (found.kind, found.output) == ("bound-exceeded", "q_weights")
        assert "every wrong value is 2 times the right one" in found.detail
        wrong = codes.clone()
        wrong[3, 1, 5] ^= 0x80
        found = fold(q, weights, wrong, folded, scale_fmt)
        assert found is not None
        assert (found.kind, found.output, found.index) == ("code-mismatch", "q_fp8", (3, 1, 5))


@pytest.mark.parametrize("sign", [1, -1])
def test_folded_weight_at_the_edge(sign: int) -> None:
    q, weights = torch.ones(1, 1, 32).bfloat16(), torch.tensor([[0.7]])
    q_fp8, _ = q_quant(q, weights, scale_fmt="ue8m0", fp8="e4m3fn")
    scale = row_scale(q, scale_fmt="ue8m0", fp8="e4m3fn")
    edge = legal.legal_weights(weights, scale, num_heads=1, head_dim=32)[sign > 0]
    inside = edge.float()
    if sign * (float(inside) - float(edge)) > 0:
        inside = torch.nextafter(inside, torch.tensor(-sign * 9.0))
    outside = torch.nextafter(inside, torch.tensor(sign * 9.0))
    assert fold(q, weights, fp8.codes(q_fp8), inside, "ue8m0") is None
    assert fold(q, weights, fp8.codes(q_fp8), outside, "ue8m0") is not None


def test_codes_and_weight_are_explained_by_one_scale() -> None:
    """A row whose code tells its two legal scales apart: the weight of the same scale passes."""
    torch.manual_seed(3)
    q, weights = torch.randn(400, 1, 32).bfloat16(), torch.ones(400, 1)
    scales = legal.legal_scales(q, scale_fmt="fp32", fp8="e4m3fn")
    assert bool((scales[..., 0] != scales[..., 1]).any())
    for scale in scales.unbind(-1):
        codes = fp8.codes(quantise(q, scale, fp8="e4m3fn"))
        assert fold(q, weights, codes, weights * scale * 32**-0.5) is None
