"""The vectorised models against scalar ones in exact rational arithmetic, and their properties."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from indexfuzz.lockstep.arithmetic.fp8_codec import FORMATS, decode_fp8, encode_fp8
from indexfuzz.lockstep.arithmetic.matrix_units import MODELS
from indexfuzz.lockstep.arithmetic.rounding import round_to_bf16, round_to_fp16

_spec = importlib.util.spec_from_file_location("exact_dot", Path(__file__).with_name("exact_dot.py"))
exact = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(exact)

FP8 = ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz")


def quantise(x: np.ndarray, fmt: str) -> np.ndarray:
    x = x.astype(np.float32)
    if fmt in FORMATS:
        return decode_fp8(encode_fp8(x, fmt), fmt)
    return {"bf16": round_to_bf16, "fp16": round_to_fp16, "fp32": lambda y: y}[fmt](x)


def draw(rng: np.random.Generator, regime: str, shape: tuple[int, ...], fmt: str) -> np.ndarray:
    gaussian = rng.standard_normal(shape)
    smallest = 2.0 ** exact.MIN_EXPONENT[fmt]
    return {
        "gaussian": lambda: quantise(gaussian, fmt),
        "integers": lambda: quantise(rng.integers(-15, 16, shape), fmt),
        "wide": lambda: quantise(np.ldexp(gaussian, rng.integers(-12, 8, shape)), fmt),
        "subnormal": lambda: quantise(gaussian * smallest / 2, fmt),
        "mixed": lambda: quantise(np.where(rng.random(shape) < 0.3, gaussian * smallest, gaussian * 16), fmt),
        "sparse": lambda: quantise(np.where(rng.random(shape) < 0.9, 0, gaussian), fmt),
        "zero": lambda: np.zeros(shape, np.float32),
    }[regime]()


REGIMES = ("gaussian", "integers", "wide", "subnormal", "mixed", "sparse", "zero")


def accumulator(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    spread = np.ldexp(rng.standard_normal(shape), rng.integers(-30, 30, shape))
    spread = np.where(rng.random(shape) < 0.1, 0, spread)
    return np.where(rng.random(shape) < 0.05, 1e-41, spread).astype(np.float32)


def identical(x: np.ndarray, y: np.ndarray) -> bool:
    return x.dtype == y.dtype == np.float32 and np.array_equal(x.view(np.uint32), y.view(np.uint32))


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("fmt", ["e4m3fn", "e5m2"])
def test_qgmma_equals_exact_model(fmt, regime):
    rng = np.random.default_rng(1)
    a, b = draw(rng, regime, (2, 64, 64), fmt), draw(rng, regime, (2, 64, 8), fmt)
    acc = accumulator(rng, (2, 64, 8))

    def one(row, column, c):
        for k in (0, 32):
            c = exact.truncating(row[k : k + 32], column[k : k + 32], c, (fmt, fmt), 13, 13)
        return c

    got = MODELS["sm90"](a, b, acc, fmt, fmt)
    exact.check(one, a, b, acc, got, rng)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("fmt", ["e4m3fn", "e5m2", "fp16", "bf16"])
def test_hmma_equals_exact_model(fmt, regime):
    rng = np.random.default_rng(2)
    a, b = draw(rng, regime, (1, 16, 64), fmt), draw(rng, regime, (3, 64, 8), fmt)
    acc = accumulator(rng, (3, 16, 8))
    operand = "bf16" if fmt == "bf16" else "fp16"
    groups = [list(range(k, k + 16)) for k in range(0, 64, 16)]
    if fmt in FP8:
        groups = [
            [c + 16 * u + 4 * t + 2 * h + j for u in range(2) for t in range(4) for j in range(2)]
            for c in (0, 32)
            for h in range(2)
        ]

    def one(row, column, c):
        for g in groups:
            c = exact.truncating([row[k] for k in g], [column[k] for k in g], c, (operand, operand), 25, 23)
        return c

    got = MODELS["sm90"](a, b, acc, fmt, fmt)
    exact.check(one, a, b, acc, got, rng)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("fmt", ["e4m3fnuz", "e5m2fnuz", "e4m3fn", "e5m2", "fp16", "bf16"])
def test_cdna3_equals_exact_model(fmt, regime):
    rng = np.random.default_rng(3)
    a, b = draw(rng, regime, (2, 16, 32), fmt), draw(rng, regime, (2, 32, 16), fmt)
    acc = accumulator(rng, (1, 16, 16))
    native = fmt.endswith("fnuz")
    operand = fmt if native or fmt == "bf16" else "fp16"
    step = 16 if native else 8

    def one(row, column, c):
        for k in range(0, 32, step):
            c = exact.flooring(row[k : k + step], column[k : k + step], c, (operand, operand), split=native)
        return c

    got = MODELS["cdna3"](a, b, acc, fmt, fmt)
    exact.check(one, a, b, acc, got, rng)


def add_in_order(a, b, acc):
    total = np.zeros((len(a), a.shape[1], b.shape[2]))
    for k in range(a.shape[2]):
        total = total + a[:, :, k, None].astype(np.float64) * b[:, k, None, :].astype(np.float64)
    return total.astype(np.float32) + acc


@pytest.mark.parametrize("kind", ["wide", "gaussian", "integers"])
@pytest.mark.parametrize("fmt", ["e4m3fn", "e5m2", "fp16", "bf16", "fp32"])
def test_ieee_is_a_sum_in_order_with_one_rounding(fmt, kind):
    rng = np.random.default_rng(4)
    a, b = draw(rng, kind, (2, 40, 48), fmt), draw(rng, kind, (2, 48, 24), fmt)
    a[:, 1::2, ::2], b[:, ::2, :4] = -a[:, 1::2, 1::2], b[:, 1::2, :4]  # sums of which nothing is left
    acc = accumulator(rng, (2, 40, 24))
    assert identical(MODELS["ieee"](a, b, acc, fmt, fmt), add_in_order(a, b, acc))
    assert identical(MODELS["ieee"](a, b[:1], acc, fmt, fmt), add_in_order(a, b[:1], acc))


@pytest.mark.parametrize("fmt", ["bf16", "fp32"])
def test_ieee_does_not_depend_on_how_a_library_adds(fmt, monkeypatch):
    """One that adds in another order changes nothing; one that is wrong by more than an order can be is believed."""
    rng = np.random.default_rng(4)
    a, b = draw(rng, "gaussian", (8, 64, 96), fmt), draw(rng, "gaussian", (8, 96, 64), fmt)
    acc, exact = accumulator(rng, (8, 64, 64)), np.matmul
    expected = add_in_order(a, b, acc)
    monkeypatch.setattr(np, "matmul", lambda x, y: exact(x[..., ::-1].copy(), y[:, ::-1].copy()))
    assert identical(MODELS["ieee"](a, b, acc, fmt, fmt), expected)
    monkeypatch.setattr(np, "matmul", lambda x, y: exact(x, y) * (1 + 2.0**-26))
    assert not identical(MODELS["ieee"](a, b, acc, fmt, fmt), expected)


@pytest.mark.parametrize("lost", ["nan", "infinity times zero"])
def test_ieee_adds_no_row_in_order_whose_products_are_nan(lost, monkeypatch):
    rng = np.random.default_rng(8)
    a, b = draw(rng, "gaussian", (2, 32, 48), "fp32"), draw(rng, "gaussian", (2, 48, 24), "fp32")
    acc = accumulator(rng, (2, 32, 24))
    clean = MODELS["ieee"](a, b, acc, "fp32", "fp32")
    if lost == "nan":
        a[:, ::2] = np.nan
    else:
        a[:, ::2, 5], b[:, 5] = np.inf, 0
        clean[:, 1::2] = add_in_order(a[:, 1::2], b, acc[:, 1::2])
    clean[:, ::2] = np.uint32(0x7FFFFFFF).view(np.float32)
    ieee = sys.modules[MODELS["ieee"].__module__]
    monkeypatch.setattr(ieee, "_in_order", None)
    assert identical(MODELS["ieee"](a, b, acc, "fp32", "fp32"), clean)


@pytest.mark.parametrize("model", sorted(MODELS))
@pytest.mark.parametrize("rows", [16, 64])
def test_small_integers_are_exact_in_every_model(model, rows):
    rng = np.random.default_rng(5)
    fmt = "e4m3fnuz" if model == "cdna3" else "e4m3fn"
    a, b = draw(rng, "integers", (4, rows, 128), fmt), draw(rng, "integers", (4, 128, 16), fmt)
    a[rng.random(a.shape) < 0.7] = 0
    acc = np.zeros((1, rows, 16), np.float32)
    assert identical(MODELS[model](a, b, acc, fmt, fmt), (a.astype(np.float64) @ b).astype(np.float32))


@pytest.mark.parametrize("model", sorted(MODELS))
@pytest.mark.parametrize("fmt", ["e4m3fn", "e5m2", "bf16", "fp16", "fp32"])
@pytest.mark.parametrize("rows", [16, 64])
def test_bits_do_not_depend_on_the_program_axis(model, fmt, rows):
    rng = np.random.default_rng(6)
    a, b = draw(rng, "wide", (70, rows, 64), fmt), draw(rng, "wide", (70, 64, 32), fmt)
    acc = accumulator(rng, (70, rows, 32))
    together = MODELS[model](a, b, acc, fmt, fmt)
    alone = [MODELS[model](a[p : p + 1], b[p : p + 1], acc[p : p + 1], fmt, fmt) for p in range(70)]
    assert identical(together, np.concatenate(alone))


def test_broadcast_program_axis_equals_repeated_operands():
    rng = np.random.default_rng(7)
    a, b = draw(rng, "gaussian", (1, 64, 64), "e4m3fn"), draw(rng, "gaussian", (9, 64, 32), "e4m3fn")
    acc = accumulator(rng, (1, 64, 32))
    for model in ("ieee", "sm90"):
        repeated = MODELS[model](np.repeat(a, 9, 0), b, np.repeat(acc, 9, 0), "e4m3fn", "e4m3fn")
        assert identical(MODELS[model](a, b, acc, "e4m3fn", "e4m3fn"), repeated)


def test_promotion_joins_partial_sums_in_fp32():
    rng = np.random.default_rng(8)
    a, b = draw(rng, "gaussian", (2, 64, 128), "e4m3fn"), draw(rng, "gaussian", (2, 128, 16), "e4m3fn")
    acc = accumulator(rng, (2, 64, 16))
    zero = np.zeros_like(acc)
    sm90 = MODELS["sm90"]
    for period in (32, 64, 128):
        expected = acc
        for k in range(0, 128, period):
            partial = sm90(a[:, :, k : k + period], b[:, k : k + period], zero, "e4m3fn", "e4m3fn")
            expected = expected + partial
        assert identical(sm90(a, b, acc, "e4m3fn", "e4m3fn", period), expected)
    assert not identical(sm90(a, b, acc, "e4m3fn", "e4m3fn", 32), sm90(a, b, acc, "e4m3fn", "e4m3fn"))


def test_imprecise_accumulation_forbidden_selects_hmma():
    rng = np.random.default_rng(9)
    a, b = draw(rng, "gaussian", (1, 64, 64), "e4m3fn"), draw(rng, "gaussian", (1, 64, 16), "e4m3fn")
    acc = accumulator(rng, (1, 64, 16))
    got = MODELS["sm90"](a, b, acc, "e4m3fn", "e4m3fn", 0)
    upper = MODELS["sm90"](a[:, :16], b, acc[:, :16], "e4m3fn", "e4m3fn")
    assert identical(got[:, :16], upper)
    assert not identical(got, MODELS["sm90"](a, b, acc, "e4m3fn", "e4m3fn"))


@pytest.mark.parametrize(("model", "bits"), [("ieee", 0x7FFFFFFF), ("sm90", 0x7FFFFFFF), ("cdna3", 0x7FC00000)])
@pytest.mark.parametrize("rows", [16, 64])
def test_nan_stays_in_its_row(model, bits, rows):
    rng = np.random.default_rng(10)
    a, b = draw(rng, "gaussian", (2, rows, 64), "e4m3fn"), draw(rng, "gaussian", (2, 64, 16), "e4m3fn")
    acc = accumulator(rng, (2, rows, 16))
    clean = MODELS[model](a, b, acc, "e4m3fn", "e4m3fn")
    a[1, 3, 40] = np.nan
    dirty = MODELS[model](a, b, acc, "e4m3fn", "e4m3fn")
    assert (dirty[1, 3].view(np.uint32) == bits).all()
    clean[1, 3] = dirty[1, 3]
    assert identical(clean, dirty)


def test_infinities_follow_ieee():
    a = np.ones((1, 64, 32), np.float32)
    b = np.ones((1, 32, 16), np.float32)
    acc = np.zeros((1, 64, 16), np.float32)
    a[0, 0, 0], a[0, 1, 0], a[0, 2, :2], acc[0, 3, 0] = np.inf, -np.inf, (np.inf, -np.inf), np.inf
    for model, nan in (("sm90", 0x7FFFFFFF), ("cdna3", 0x7FC00000), ("ieee", 0x7FFFFFFF)):
        got = MODELS[model](a, b, acc, "e5m2", "e5m2")[0]
        assert (got[0] == np.inf).all()
        assert (got[1] == -np.inf).all()
        assert (got[2].view(np.uint32) == nan).all()
        assert got[3, 0] == np.inf
        assert got[3, 1] == 32


def test_cdna3_product_beyond_fp32_is_infinite():
    a = np.zeros((1, 16, 16), np.float32)
    b = np.zeros((1, 16, 16), np.float32)
    a[0, :, 0], b[0, 0, :] = 2.0**100, 2.0**28
    a[0, :, 1], b[0, 1, :] = -(2.0**100), 2.0**27
    acc = np.zeros((1, 16, 16), np.float32)
    assert (MODELS["cdna3"](a, b, acc, "bf16", "bf16") == np.inf).all()
    assert (MODELS["sm90"](a, b, acc, "bf16", "bf16") == 2.0**127).all()


def test_unsupported_operands_are_refused():
    def dot(model, size, fmt):
        operands = np.zeros((1, 64, size), np.float32), np.zeros((1, size, 16), np.float32)
        return MODELS[model](*operands, np.zeros((1, 64, 16), np.float32), fmt, fmt)

    with pytest.raises(ValueError, match="sm_90 has no dot of e4m3fnuz"):
        dot("sm90", 32, "e4m3fnuz")
    with pytest.raises(ValueError, match="multiples of 32, not 16"):
        dot("sm90", 16, "e4m3fn")
    with pytest.raises(ValueError, match="gfx942 has no dot of e4m3b11fnuz"):
        dot("cdna3", 32, "e4m3b11fnuz")
    with pytest.raises(ValueError, match="multiples of 16, not 8"):
        dot("cdna3", 8, "e4m3fnuz")
