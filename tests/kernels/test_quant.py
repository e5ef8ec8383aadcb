import pytest
import torch

from indexfuzz.kernels.quant import q_quant
from indexfuzz.reference import fp8 as codec
from indexfuzz.reference.quant import q_quant as reference

FORMATS = [(scale_fmt, fp8) for scale_fmt in ("ue8m0", "fp32") for fp8 in ("e4m3fn", "e4m3fnuz")]
U = 2.0**-24


def assert_quantised(q, weights, got, *, scale_fmt, fp8):
    want = reference(q, weights, scale_fmt=scale_fmt, fp8=fp8)
    assert got[0].dtype == want[0].dtype
    assert torch.equal(codec.codes(got[0]), codec.codes(want[0]))
    torch.testing.assert_close(got[1], want[1], rtol=4 * U, atol=0)


@pytest.mark.parametrize(("scale_fmt", "fp8"), FORMATS)
@pytest.mark.parametrize(("tokens", "heads", "head_dim"), [(1, 1, 32), (3, 6, 64), (2, 64, 128), (17, 12, 128)])
def test_equals_the_reference(rng, scale_fmt, fp8, tokens, heads, head_dim):
    q = (torch.randn(tokens, heads, head_dim, generator=rng) * 8).bfloat16()
    weights = torch.randn(tokens, heads, generator=rng)
    got = q_quant(q, weights, scale_fmt=scale_fmt, fp8=fp8)
    assert_quantised(q, weights, got, scale_fmt=scale_fmt, fp8=fp8)


@pytest.mark.parametrize(("fp8", "largest"), [("e4m3fn", 448.0), ("e4m3fnuz", 224.0)])
@pytest.mark.parametrize("k", [-20, -3, 0, 1, 40])
def test_ue8m0_is_a_power_of_two_and_exact_at_its_edge(fp8, largest, k):
    edge = torch.tensor(largest * 2.0**k).bfloat16()
    above = torch.nextafter(edge, torch.tensor(torch.inf).bfloat16())
    q = torch.zeros(2, 1, 64, dtype=torch.bfloat16)
    q[0, 0, 5], q[1, 0, 63] = edge, -above
    _, weights = q_quant(q, torch.ones(2, 1), scale_fmt="ue8m0", fp8=fp8)
    assert (weights * 8).flatten().tolist() == [2.0**k, 2.0 ** (k + 1)]


@pytest.mark.parametrize(("scale_fmt", "fp8"), FORMATS)
def test_zero_rows_have_the_scale_of_the_clamp(scale_fmt, fp8):
    q = torch.zeros(3, 2, 32, dtype=torch.bfloat16)
    q[1] = -0.0
    q[2] = 3e-5
    weights = torch.full((3, 2), 0.5)
    got = q_quant(q, weights, scale_fmt=scale_fmt, fp8=fp8)
    assert_quantised(q, weights, got, scale_fmt=scale_fmt, fp8=fp8)
    assert (got[1] > 0).all()


def test_column_slices(machine, rng, widen):
    q = torch.randn(9, 6, 64, generator=rng).bfloat16()
    weights = torch.randn(9, 6, generator=rng)
    wide_q, wide_weights = widen(q), widen(weights, 5)
    machine.declare("q", wide_q, initialised=True)
    machine.declare("weights", wide_weights, initialised=True)
    got = q_quant(wide_q, wide_weights, scale_fmt="ue8m0", fp8="e4m3fn")
    assert_quantised(q, weights, got, scale_fmt="ue8m0", fp8="e4m3fn")


def test_zero_tokens():
    q_fp8, q_weights = q_quant(
        torch.empty(0, 4, 32, dtype=torch.bfloat16), torch.empty(0, 4), scale_fmt="fp32", fp8="e4m3fn"
    )
    assert q_fp8.shape == (0, 4, 32)
    assert q_weights.shape == (0, 4)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"scale_fmt": "e8m0"}, 'scale_fmt must be one of ue8m0, fp32, got "e8m0"'),
        ({"fp8": "e5m2"}, 'fp8 must be one of e4m3fn, e4m3fnuz, got "e5m2"'),
        ({"q": torch.zeros(2, 3, 100, dtype=torch.bfloat16)}, "head_dim must be 32, 64 or 128, got 100"),
        ({"q": torch.zeros(2, 3, 16, dtype=torch.bfloat16)}, "head_dim must be 32, 64 or 128, got 16"),
        ({"q": torch.zeros(2, 3, 32).double()}, "q must be bfloat16 or float16 or float32, got float64"),
        ({"weights": torch.zeros(2, 4)}, r"weights must have shape \[2, 3\], got \[2, 4\]"),
        ({"weights": torch.zeros(2, 3).half()}, "weights must be float32 or bfloat16, got float16"),
    ],
)
def test_contract(change, sentence):
    arguments = {
        "q": torch.zeros(2, 3, 32, dtype=torch.bfloat16),
        "weights": torch.zeros(2, 3),
        "scale_fmt": "ue8m0",
        "fp8": "e4m3fn",
    }
    with pytest.raises(ValueError, match=sentence):
        q_quant(**(arguments | change))
