"""The bounds hold for simulated matrix units and every order of summation, and are not idle."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from indexfuzz.lockstep.arithmetic.matrix_units import MODELS
from indexfuzz.reference import bounds, dot_error, fp8, layout, legal, mqa_logits
from indexfuzz.reference.arithmetic import DOT_UNITS, PORTABLE, PRESETS, Arithmetic
from indexfuzz.reference.quant import q_quant, quantise, row_scale
from indexfuzz.reference.scales import pack, unpack

HEADS, HEAD_DIM, ROWS, KEYS = 8, 128, 8, 24


def simulated(name: str, fmt: str, rows: int | None = None) -> bounds.Dot:
    """A matrix unit of Lockstep; ``rows`` cuts M, for the units that depend on it."""

    def dot(q: Tensor, k: Tensor) -> Tensor:
        a = fp8.decode(fp8.codes(q), fmt).numpy().reshape(1, -1, q.shape[-1])
        b = fp8.decode(fp8.codes(k), fmt).numpy().transpose(0, 2, 1)
        step = rows or a.shape[1]
        parts = []
        for start in range(0, a.shape[1], step):
            part = np.ascontiguousarray(a[:, start : start + step])
            parts.append(
                MODELS[name](
                    part, np.ascontiguousarray(b), np.zeros((1, part.shape[1], b.shape[2]), np.float32), fmt, fmt
                )
            )
        return torch.from_numpy(np.concatenate(parts, 1)).view(*q.shape[:3], k.shape[1])

    return dot


UNITS = {
    "ieee": ("ieee", "e4m3fn", simulated("ieee", "e4m3fn")),
    "sm90-qgmma": ("sm90-qgmma", "e4m3fn", simulated("sm90", "e4m3fn")),
    "sm90-hmma": ("sm90-hmma", "e4m3fn", simulated("sm90", "e4m3fn", 16)),
    "cdna3-fp8": ("cdna3-fp8", "e4m3fnuz", simulated("cdna3", "e4m3fnuz")),
    "cdna3-f16": ("cdna3-f16", "e4m3fn", simulated("cdna3", "e4m3fn")),
}


def family(name: str, shape: tuple[int, ...], fmt: str) -> Tensor:
    if name == "gaussian":
        x = torch.randn(shape).bfloat16()
        return quantise(x, row_scale(x, scale_fmt="ue8m0", fp8=fmt), fp8=fmt)
    largest = fp8.FORMATS[fmt].max_code
    if name == "positive":
        return fp8.as_fp8(torch.randint(0x60, largest + 1, shape).to(torch.uint8), fmt)
    if name == "subnormal":
        code = torch.randint(0, 12, shape) | (torch.randint(0, 2, shape) << 7)
        return fp8.as_fp8(torch.where(code == 0x80, 0, code).to(torch.uint8), fmt)
    if name == "all codes":
        code = torch.randint(0, largest + 1, shape) | (torch.randint(0, 2, shape) << 7)
        return fp8.as_fp8(torch.where(code == 0x80, 0, code).to(torch.uint8), fmt)
    if name == "cancelling":
        code = torch.randint(0x58, largest + 1, shape)
        code[..., shape[-1] // 2 :] = code[..., : shape[-1] // 2]
        return fp8.as_fp8(code.to(torch.uint8), fmt)
    raise ValueError(name)


def pair(name: str, fmt: str) -> tuple[Tensor, Tensor]:
    q, k = family(name, (1, ROWS, HEADS, HEAD_DIM), fmt), family(name, (1, KEYS, HEAD_DIM), fmt)
    if name == "cancelling":
        value = fp8.decode(fp8.codes(q), fmt)
        value[..., HEAD_DIM // 2 :] *= -1
        q = fp8.as_fp8(fp8.encode(value, fmt), fmt)
    return q, k


@pytest.mark.parametrize("data", ["gaussian", "positive", "subnormal", "all codes", "cancelling"])
@pytest.mark.parametrize("unit", UNITS)
def test_simulated_dots_stay_within_their_unit_s_bound(unit: str, data: str) -> None:
    name, fmt, run = UNITS[unit]
    largest = 0.0
    for seed in range(4):
        torch.manual_seed(seed)
        q8, k8 = pair(data, fmt)
        q, k = (fp8.decode(fp8.codes(x), fmt, torch.float64) for x in (q8, k8))
        magnitude = mqa_logits.dot(bounds._aligned(q8), bounds._aligned(k8))
        error = (run(q8, k8).double() - mqa_logits.dot(q, k)).abs()
        for contract in {DOT_UNITS[name], DOT_UNITS["sm89-fp8"] if name == "sm90-qgmma" else DOT_UNITS[name]}:
            limit = dot_error.dot_error(q8, k8, magnitude, contract)
            assert bool((error <= limit).all())
            largest = max(largest, float((error / limit.clamp_min(1e-300)).max()))
    assert largest <= 0.5
    if unit == "sm90-qgmma" and data in ("gaussian", "positive"):
        assert largest > 0.05  # of the ordered bound: it is no idle one


def test_largest_product_is_exact() -> None:
    torch.manual_seed(0)
    q8, k8 = pair("all codes", "e4m3fn")
    q, k = (fp8.decode(fp8.codes(x), "e4m3fn", torch.float64) for x in (q8, k8))
    got = dot_error._largest_product(dot_error._floor_powers(q8), dot_error._floor_powers(k8))
    exponent = torch.where(q == 0, -1e9, torch.frexp(q).exponent.clamp_min(-5).double() - 1)
    other = torch.where(k == 0, -1e9, torch.frexp(k).exponent.clamp_min(-5).double() - 1)
    want = (exponent.unsqueeze(3) + other.unsqueeze(1).unsqueeze(1)).amax(-1)
    assert torch.equal(got, torch.exp2(want))


Epilogue = Callable[[Tensor, Tensor, Tensor], Tensor]


def in_order(scores: Tensor, w: Tensor, scale: Tensor) -> Tensor:
    total = torch.zeros_like(scores[:, :, 0])
    for h in range(scores.shape[2]):
        total = total + w[:, :, h, None] * scores[:, :, h].relu()
    return total * scale[:, None]


def backwards_fused(scores: Tensor, w: Tensor, scale: Tensor) -> Tensor:
    total = torch.zeros_like(scores[:, :, 0])
    for h in reversed(range(scores.shape[2])):
        total = legal.fma32(scores[:, :, h].relu(), w[:, :, h, None].expand_as(total), total)
    return total * scale[:, None]


def as_a_tree(scores: Tensor, w: Tensor, scale: Tensor) -> Tensor:
    terms = scores.relu() * (w[..., None] * scale[:, None, None])
    while terms.shape[2] > 1:
        if terms.shape[2] % 2:
            terms = torch.cat([terms, torch.zeros_like(terms[:, :, :1])], 2)
        half = terms.shape[2] // 2
        terms = terms[:, :, :half] + terms[:, :, half:]
    return terms[:, :, 0]


def scaled_scores(scores: Tensor, w: Tensor, scale: Tensor) -> Tensor:
    scores = (scores * scale[:, None, None]).relu()
    return torch.einsum("srhn,srh->srn", scores, w)


EPILOGUES: list[Epilogue] = [in_order, backwards_fused, as_a_tree, scaled_scores]


def problem(seed: int, fmt: str = "e4m3fn", scale_fmt: str = "ue8m0", heads: int = HEADS) -> tuple[Tensor, ...]:
    torch.manual_seed(seed)
    q, raw = torch.randn(ROWS, heads, HEAD_DIM).bfloat16(), torch.randn(ROWS, heads)
    q8, w = q_quant(q, raw, scale_fmt=scale_fmt, fp8=fmt)
    k = torch.randn(KEYS, HEAD_DIM).bfloat16()
    scale = row_scale(k, scale_fmt=scale_fmt, fp8=fmt)
    return q8[None], quantise(k, scale, fp8=fmt)[None], scale[None], w[None]


def exact_problem(seed: int, fmt: str = "e4m3fn") -> tuple[Tensor, ...]:
    torch.manual_seed(seed)
    q, k = (torch.randint(-9, 10, shape).float() for shape in ((1, ROWS, HEADS, HEAD_DIM), (1, KEYS, HEAD_DIM)))
    q8, k8 = (fp8.as_fp8(fp8.encode(x, fmt), fmt) for x in (q, k))
    return q8, k8, torch.exp2(torch.randint(-3, 4, (1, KEYS)).float()), torch.randint(-7, 8, (1, ROWS, HEADS)) / 8.0


@pytest.mark.parametrize("scale_fmt", ["ue8m0", "fp32"])
@pytest.mark.parametrize("unit", UNITS)
def test_correct_kernels_are_never_flagged(unit: str, scale_fmt: str) -> None:
    name, fmt, run = UNITS[unit]
    arithmetic = Arithmetic(DOT_UNITS[name])
    for seed in range(12):
        q8, k8, scale, w = problem(seed, fmt, scale_fmt, heads=1 + seed)
        scores = run(q8, k8)
        for epilogue in EPILOGUES:
            got = epilogue(scores, w, scale).double()
            for dot in (None, run):
                value, bound, exact = bounds.group_bounds(q8, k8, scale, w, arithmetic, dot)
                assert bool(((got - value).abs() <= bound).all()), (epilogue.__name__, dot)
                assert not bool(exact.all())


@pytest.mark.parametrize("unit", UNITS)
def test_exact_data_gives_the_same_bits_everywhere(unit: str) -> None:
    name, fmt, run = UNITS[unit]
    for seed in range(6):
        q8, k8, scale, w = exact_problem(seed, fmt)
        value, bound, exact = bounds.group_bounds(q8, k8, scale, w, Arithmetic(DOT_UNITS[name]), None)
        assert bool(exact.all())
        assert bool((bound == 0).all())
        for epilogue in EPILOGUES:
            assert torch.equal(epilogue(run(q8, k8), w, scale).double(), value), epilogue.__name__


@pytest.mark.parametrize(
    "spoil",
    [
        lambda q, k, s, w: (q, k, s * 3, w),
        lambda q, k, s, w: (q, k, s, w + 2.0**-22),
        lambda q, k, s, w: (q, k, s * 2.0**-124, w),
        lambda q, k, s, w: (
            fp8.as_fp8(torch.where(torch.arange(HEAD_DIM) == 3, 0x01, fp8.codes(q)), "e4m3fn"),
            k,
            s,
            w,
        ),
    ],
    ids=["scale", "weights", "underflow", "subnormal operand"],
)
def test_data_that_rounds_is_not_called_exact(spoil: Callable[..., tuple[Tensor, ...]]) -> None:
    q8, k8, scale, w = spoil(*exact_problem(0))
    for unit in ("ieee", "sm90-qgmma"):
        _, bound, exact = bounds.group_bounds(q8, k8, scale, w, Arithmetic(DOT_UNITS[unit]), None)
        if (
            unit == "sm90-qgmma"
            or (w != w.round(decimals=3)).any()
            or bool((scale != 2.0 ** torch.log2(scale).round()).any())
        ):
            assert not bool(exact.all())
            assert bool((bound > 0).any())


def test_declared_rounding_of_weights_widens_the_bound() -> None:
    q8, k8, scale, w = problem(0)
    exact_w = bounds.group_bounds(q8, k8, scale, w, PORTABLE, None)
    declared = bounds.group_bounds(q8, k8, scale, w, Arithmetic(weight_rounding=2.0**-8), None)
    rounded = in_order(simulated("ieee", "e4m3fn")(q8, k8), w.bfloat16().float(), scale).double()
    error = (rounded - exact_w[0]).abs()
    assert bool((error > exact_w[1]).any())
    assert bool((error <= declared[1]).all())


def test_declared_rounding_of_scores_widens_the_bound() -> None:
    q8, k8, scale, w = problem(0)
    exact = bounds.group_bounds(q8, k8, scale, w, PORTABLE, None)
    declared = bounds.group_bounds(q8, k8, scale, w, Arithmetic(score_rounding=2.0**-8), None)
    rounded = in_order(simulated("ieee", "e4m3fn")(q8, k8).bfloat16().float(), w, scale).double()
    error = (rounded - exact[0]).abs()
    assert bool((error > exact[1]).any())
    assert bool((error <= declared[1]).all())


def test_declared_rounding_of_scores_never_calls_exact_data_exact() -> None:
    assert not bool(bounds.group_bounds(*exact_problem(0), Arithmetic(score_rounding=2.0**-8), None)[2].any())


def test_overflow_leaves_nothing_decided() -> None:
    q8, k8, scale, w = problem(0)
    huge = scale * 0 + 2.0**120
    _, bound, _ = bounds.group_bounds(q8, k8, huge, w * 2.0**20, PORTABLE, None)
    assert bool(torch.isinf(bound).any())
    _, bound, _ = bounds.group_bounds(q8, k8, scale * 0 + 2.0**60, w, PORTABLE, None)
    assert bool(torch.isfinite(bound).all())


def test_a_dot_that_its_scale_makes_infinite_is_not_surely_nothing_under_a_weight_of_zero() -> None:
    """Kernels may multiply by the scale before the weights: 0 times infinity is NaN."""
    q8, k8, scale, w = exact_problem(0)
    nothing, huge = torch.zeros_like(w), torch.full_like(scale, 2.0**126)
    dots = mqa_logits.dot(*(fp8.decode(fp8.codes(x), "e4m3fn", torch.float64) for x in (q8, k8))).relu().amax(2)
    _, bound, exact = bounds.group_bounds(q8, k8, huge, nothing, PORTABLE, None)
    assert not bool(exact.any())
    overflows = dots * 2.0**126 > torch.finfo(torch.float32).max
    assert bool(overflows.any())
    assert bool(torch.isinf(bound[overflows]).all())
    _, bound, exact = bounds.group_bounds(q8, k8, torch.full_like(scale, 2.0**60), nothing, PORTABLE, None)
    assert bool(exact.all())
    assert not bool(bound.any())


@pytest.mark.parametrize("largest", [torch.finfo(torch.float32).max, 2.0**100])
def test_a_huge_weight_under_the_relu_hides_no_error_of_others(largest: float) -> None:
    """Unless it may overflow by itself, or what is multiplied with it underflow."""
    q8 = torch.tensor([-1.0, 1.0]).view(1, 1, 2, 1).repeat(1, 1, 1, 32).to(torch.float8_e4m3fn)
    k8 = torch.ones(1, 1, 32).to(torch.float8_e4m3fn)
    w = torch.tensor([[[largest, 2.0**-90]]])
    found = {}
    for scale in (1.0, 2.0**-60, 2.0**-61, 2.0**20):
        value, bound, _ = bounds.group_bounds(q8, k8, torch.tensor([[scale]]), w, PORTABLE, None)
        assert float(value) == 32 * 2.0**-90 * scale
        found[scale] = float(bound)
    assert found[1.0] < 2.0**-18 * 32 * 2.0**-90
    assert found[2.0**-60] < 2.0**-118
    assert 2.0**-126 * largest < found[2.0**-61] < 2.0**-121 * largest
    assert math.isinf(found[2.0**20]) == (largest > 2.0**100)


def test_zero_weights_and_zero_keys_bound_tightly() -> None:
    q8, k8, scale, w = problem(0, scale_fmt="fp32")
    value, bound, _ = bounds.group_bounds(q8, k8, scale, torch.zeros_like(w), PORTABLE, None)
    assert bool((value == 0).all())
    assert float(bound.max()) < 1e-30
    nothing = fp8.as_fp8(torch.zeros_like(fp8.codes(k8)), "e4m3fn")
    value, bound, _ = bounds.group_bounds(q8, nothing, scale, w, PORTABLE, None)
    assert float((value + bound).max()) < 1e-30


def test_prefill_and_paged_bounds_agree() -> None:
    q8, k8, scale, w = (x[0] for x in problem(1))
    ks, ke = torch.zeros(ROWS, dtype=torch.int32), torch.arange(ROWS, dtype=torch.int32) + 3
    prefill = bounds.prefill_bounds(q8, k8, scale, w, ks, ke)
    assert prefill.tier == "T3"
    cache = torch.full((4, 16, HEAD_DIM + 4), 0x7F, dtype=torch.uint8)
    table = torch.tensor([[2, 1]], dtype=torch.int32)
    slots = (table[0, :, None] * 16 + torch.arange(16)).flatten()[:KEYS].long()
    layout.write_tokens(cache, slots, fp8.codes(k8), scale, "shuffle")
    paged = bounds.paged_bounds(q8[None], cache, w, ke[None], table, 31, layout="auto")
    assert torch.equal(paged.reference[:, :KEYS], prefill.reference)
    assert torch.equal(paged.bound[:, :KEYS], prefill.bound)
    assert torch.equal(paged.visible[:, :KEYS], prefill.visible)
    assert not bool(paged.visible[:, KEYS:].any())
    assert bool((paged.reference[~paged.visible] == float("-inf")).all())
    assert bool((paged.bound[~paged.visible] == 0).all())


@pytest.mark.parametrize(("name", "tier"), [("portable", "T3"), ("sm90", "T2"), ("sm90-hmma", "T3"), ("cdna3", "T3")])
def test_the_tier_is_part_of_the_bounds(name: str, tier: str) -> None:
    q8, k8, scale, w = (x[0] for x in problem(1))
    ks, ke = torch.zeros(ROWS, dtype=torch.int32), torch.full((ROWS,), KEYS, dtype=torch.int32)
    assert bounds.prefill_bounds(q8, k8, scale, w, ks, ke, arithmetic=PRESETS[name]).tier == tier
    run = simulated("ieee", "e4m3fn")
    assert bounds.prefill_bounds(q8, k8, scale, w, ks, ke, simulated_dot=run).tier == "T1"
    q8, k8, scale, w = (x[0] for x in exact_problem(1))
    assert bounds.prefill_bounds(q8, k8, scale, w, ks, ke, arithmetic=PRESETS[name]).tier == "T0"


def test_chunks_cover_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    q8, k8, scale, w = problem(2)
    whole = bounds.group_bounds(q8, k8, scale, w, PORTABLE, None)
    for budget in (1, 400, 3000):
        monkeypatch.setattr(mqa_logits, "CHUNK_SCORES", budget)
        for a, b in zip(whole, bounds.group_bounds(q8, k8, scale, w, PORTABLE, None), strict=True):
            assert torch.allclose(a, b, rtol=1e-14, atol=0)


def test_no_rows_and_no_keys() -> None:
    q8, k8, scale, w = problem(3)
    for rows, keys in ((0, KEYS), (ROWS, 0)):
        shapes = bounds.group_bounds(q8[:, :rows], k8[:, :keys], scale[:, :keys], w[:, :rows], PRESETS["sm90"], None)
        assert all(tuple(x.shape) == (1, rows, keys) for x in shapes)


def with_quarters(seed: int) -> tuple[torch.Tensor, ...]:
    """A problem whose keys have scales of their quarters, and the same with the quarters as fp32 values."""
    q8, k8, _, w = problem(seed)
    torch.manual_seed(seed)
    powers = 2.0 ** torch.randint(-9, 3, (*k8.shape[:2], 4)).float()
    return q8, k8, pack(powers), w


@pytest.mark.parametrize(("name", "told"), [("portable", 0.95), ("sm90", 0.75), ("cdna3", 0.95)])
def test_keys_with_scales_of_their_quarters(name: str, told: float) -> None:
    """Sums in fp32 of the dots of the quarters lie within the bound, in either order; other scales do not.

    Where both dots are negative, no logit tells; the bound of SM90's FP8 unit is wide.
    """
    q8, k8, words, w = with_quarters(3)
    value, bound, exact = bounds.group_bounds(q8, k8, words, w, PRESETS[name], simulated("ieee", "e4m3fn"))
    assert not bool(exact.any())
    q, k = (fp8.decode(fp8.codes(x), "e4m3fn") for x in (q8, k8))
    quarters, dims = unpack(words), HEAD_DIM // 4
    parts = [
        torch.einsum("srhd,snd->srhn", q[..., g * dims :][..., :dims], k[..., g * dims :][..., :dims])
        * quarters[:, None, None, :, g]
        for g in range(4)
    ]
    for scores in (sum(parts), sum(reversed(parts))):
        logits = torch.einsum("srhn,srh->srn", scores.relu(), w)
        assert bool(((logits.double() - value).abs() <= bound).all())
    other, _, _ = bounds.group_bounds(q8, k8, pack(quarters.roll(1, -1)), w, PRESETS[name], None)
    assert float(((other - value).abs() > bound).float().mean()) > told


@pytest.mark.parametrize(("key", "may_be_lost"), [(1.0, True), (224.0, False)])
def test_of_the_least_exponent_what_is_below_the_normal_range_may_be_lost_alone(key: float, may_be_lost: bool) -> None:
    """Of one key, 1 * 2^-127 is no normal number and 224 * 2^-127 is one, whatever room other dims would leave."""
    q, k = torch.zeros(1, 1, 1, 128), torch.zeros(1, 1, 128)
    q[..., 0], k[..., 0] = 448.0, key
    least, weights = pack(torch.full((1, 1, 4), 2.0**-127)), torch.full((1, 1, 1), 2.0**40)
    q8, k8 = (x.to(torch.float8_e4m3fn) for x in (q, k))
    value, bound, _ = bounds.group_bounds(q8, k8, least, weights, PORTABLE, None)
    assert float(value) == 448.0 * key * 2.0**-87
    assert bool(value <= bound) is may_be_lost


def test_a_scaled_key_beyond_fp32_leaves_nothing_decided_of_its_logits() -> None:
    """A key of 16 bits is infinite where a value of it is, though its dots with a small q are none."""
    q8, k8, words, w = with_quarters(3)
    small = fp8.as_fp8(torch.full_like(fp8.codes(q8), 1), "e4m3fn")
    codes = fp8.codes(k8).clone()
    codes[:, 0, 0] = 0x78  # 256
    largest = words.clone()
    largest[:, 0] = pack(torch.full((1, 4), 2.0**120))
    _, bound, _ = bounds.group_bounds(small, fp8.as_fp8(codes, "e4m3fn"), largest, w, PORTABLE, None)
    assert bool(torch.isinf(bound[..., 0]).all())
    assert bool(torch.isfinite(bound[..., 1:]).all())


@pytest.mark.parametrize("name", ["portable", "sm90", "cdna3"])
def test_keys_of_one_scale_are_exact_where_those_of_fp32_are(name: str) -> None:
    q8, k8, _, w = exact_problem(1)
    scale = torch.full(k8.shape[:2], 0.125)
    words = pack(scale.unsqueeze(-1))
    value, bound, exact = bounds.group_bounds(q8, k8, words, w, PRESETS[name], None)
    plain, _, exact_plain = bounds.group_bounds(q8, k8, scale, w, PRESETS[name], None)
    assert torch.equal(value, plain)
    assert torch.equal(exact, exact_plain)
    assert bool(exact.all())
    assert not bool(bound.any())
    least = pack(torch.full((*k8.shape[:2], 1), 2.0**-127))
    differing = pack(torch.tensor([0.125, 0.25, 0.125, 0.125]).expand(*k8.shape[:2], 4))
    for other in (least, differing):
        assert not bool(bounds.group_bounds(q8, k8, other, w, PRESETS[name], None)[2].any())


def test_prefill_and_paged_bounds_agree_on_words() -> None:
    q8, k8, words, w = (x[0] for x in with_quarters(1))
    ks, ke = torch.zeros(ROWS, dtype=torch.int32), torch.full((ROWS,), KEYS, dtype=torch.int32)
    prefill = bounds.prefill_bounds(q8, k8, words, w, ks, ke)
    assert prefill.tier == "T3"
    cache = torch.zeros((2, 16, HEAD_DIM + 4), dtype=torch.uint8)
    layout.write_tokens(cache, torch.arange(KEYS), fp8.codes(k8), words, "shuffle")
    table = torch.tensor([[0, 1]], dtype=torch.int32)
    paged = bounds.paged_bounds(q8[None], cache, w, ke[None], table, KEYS, layout="auto", scales="ue8m0")
    assert torch.equal(paged.reference, prefill.reference)
    assert torch.equal(paged.bound, prefill.bound)
