"""Arithmetic, comparisons and conversions of every format against independent formulas."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep, UnsupportedFeature

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.1, 1.0e-5, 65504.0, 3.0e38, float("inf"), float("-inf"), float("nan"), 1.0e-40]


@triton.jit
def _arithmetic(x, y, out, N: tl.constexpr):
    i = tl.arange(0, N)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(out + i, a + b)
    tl.store(out + N + i, a - b)
    tl.store(out + 2 * N + i, a * b)
    tl.store(out + 3 * N + i, -a)
    tl.store(out + 4 * N + i, tl.abs(a))


def _pairs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.tensor(SPECIAL + torch.randn(244, generator=torch.Generator().manual_seed(1)).tolist()).to(dtype)
    return values, values[torch.randperm(256, generator=torch.Generator().manual_seed(2))]


def _same(found: torch.Tensor, expected: torch.Tensor) -> None:
    nan = torch.isnan(expected)
    assert torch.equal(torch.isnan(found), nan)
    assert torch.equal(found[~nan], expected[~nan])
    assert torch.equal(torch.signbit(found[~nan]), torch.signbit(expected[~nan]))


@pytest.mark.parametrize("dtype", FLOATS)
def test_arithmetic_rounds_once(dtype: torch.dtype) -> None:
    x, y = _pairs(dtype)
    out = torch.zeros(5, 256, dtype=dtype)
    with Lockstep() as machine:
        _arithmetic[(1,)](x, y, out, 256)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    a, b = x.to(wide), y.to(wide)
    _same(out[0], (a + b).to(dtype))
    _same(out[1], (a - b).to(dtype))
    _same(out[2], (a * b).to(dtype))
    _same(out[4], a.abs().to(dtype))
    assert machine.violations == []


@triton.jit
def _functions(x, y, z, out, N: tl.constexpr):
    i = tl.arange(0, N)
    a, b, c = tl.load(x + i), tl.load(y + i), tl.load(z + i)
    tl.store(out + i, a / b)
    tl.store(out + N + i, tl.math.div_rn(a, b))
    tl.store(out + 2 * N + i, tl.fma(a, b, c))
    tl.store(out + 3 * N + i, tl.maximum(a, b))
    tl.store(out + 4 * N + i, tl.minimum(a, b))
    tl.store(out + 5 * N + i, tl.clamp(a, -2.0, 2.0))
    tl.store(out + 6 * N + i, tl.floor(a))
    tl.store(out + 7 * N + i, tl.ceil(a))
    tl.store(out + 8 * N + i, tl.sqrt_rn(tl.abs(a)))
    tl.store(out + 9 * N + i, tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL))
    tl.store(out + 10 * N + i, tl.exp2(tl.floor(tl.minimum(tl.maximum(a, -20.0), 20.0))))
    tl.store(out + 11 * N + i, tl.log2(tl.exp2(tl.floor(tl.minimum(tl.maximum(a, -20.0), 20.0)))))


def test_functions_of_fp32() -> None:
    x, y = _pairs(torch.float32)
    z = torch.randn(256, generator=torch.Generator().manual_seed(3))
    out = torch.zeros(12, 256)
    with Lockstep():
        _functions[(1,)](x, y, z, out, 256)
    a, b, c = x.numpy(), y.numpy(), z.numpy()
    with np.errstate(all="ignore"):
        _same(out[0], torch.from_numpy(a / b))
        _same(out[1], torch.from_numpy(a / b))
        exact = a.astype(np.longdouble) * b.astype(np.longdouble) + c.astype(np.longdouble)
    ordinary = np.isfinite(exact) & (np.abs(exact) > 1e-30) & (np.abs(exact) < 1e30)
    np.testing.assert_array_equal(out[2].numpy()[ordinary], exact[ordinary].astype(np.float32))
    np.testing.assert_array_equal(out[3], np.fmax(a, b))
    np.testing.assert_array_equal(out[4], np.fmin(a, b))
    nan = np.isnan(a)
    np.testing.assert_array_equal(out[5].numpy()[~nan], np.clip(a[~nan], -2, 2))
    assert (np.abs(out[5].numpy()[nan]) == 2).all()
    np.testing.assert_array_equal(out[6], np.floor(a))
    np.testing.assert_array_equal(out[7], np.ceil(a))
    np.testing.assert_array_equal(out[8], np.sqrt(np.abs(a)))
    np.testing.assert_array_equal(out[9], np.maximum(a, b))
    steps = np.floor(np.clip(np.where(nan, -20, a), -20, 20))
    np.testing.assert_array_equal(out[10], np.exp2(steps).astype(np.float32))
    np.testing.assert_array_equal(out[11], steps.astype(np.float32))


@triton.jit
def _cast(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i).to(out.dtype.element_ty))


INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)


@pytest.mark.parametrize("target", FLOATS + INTEGERS)
@pytest.mark.parametrize("source", FLOATS + INTEGERS)
def test_casts_agree_with_torch(source: torch.dtype, target: torch.dtype) -> None:
    x = torch.arange(-64, 64).to(source) if source in INTEGERS else torch.linspace(-100, 100, 128).to(source)
    if target == torch.uint8:
        x = x.abs() if source != torch.uint8 else x
    out = torch.zeros(128, dtype=target)
    with Lockstep() as machine:
        _cast[(1,)](x, out, 128)
    assert torch.equal(out, x.to(target))
    assert machine.violations == []


@pytest.mark.parametrize("target", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz])
@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16, torch.float16])
def test_fp8_casts_round_trip_and_agree_with_torch(source: torch.dtype, target: torch.dtype) -> None:
    limit = torch.finfo(target).max
    x = (torch.randn(256, generator=torch.Generator().manual_seed(4)) * limit / 4).clamp(-limit, limit).to(source)
    coded, back = torch.zeros(256, dtype=target), torch.zeros(256, dtype=torch.float32)
    with Lockstep():
        _cast[(1,)](x, coded, 256)
        _cast[(1,)](coded, back, 256)
    assert torch.equal(coded.view(torch.uint8), x.float().to(target).view(torch.uint8))
    assert torch.equal(back, coded.float())


def test_fp8_casts_saturate() -> None:
    x = torch.tensor([1e9, -1e9, float("inf"), 449.0, 480.0, 500.0, 448.0, 464.0])
    out = torch.zeros(8, dtype=torch.float8_e4m3fn)
    with Lockstep():
        _cast[(1,)](x, out, 8)
    assert out.float().tolist() == [448.0, -448.0, 448.0, 448.0, 448.0, 448.0, 448.0, 448.0]


@triton.jit
def _bits(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i).to(out.dtype.element_ty, bitcast=True))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (torch.float32, torch.int32),
        (torch.bfloat16, torch.int16),
        (torch.float16, torch.int16),
        (torch.float8_e4m3fn, torch.int8),
        (torch.float64, torch.int64),
    ],
)
def test_bitcasts(source: torch.dtype, target: torch.dtype) -> None:
    bits = torch.randint(-(2**7), 2**7, (64,), generator=torch.Generator().manual_seed(5)).to(target)
    x = bits.view(source)
    out, back = torch.zeros(64, dtype=target), torch.zeros(64, dtype=source)
    with Lockstep():
        _bits[(1,)](x, out, 64)
        _bits[(1,)](out, back, 64)
    assert torch.equal(out, bits)
    assert torch.equal(back.view(target), bits)


@triton.jit
def _unsigned(x, y, out, N: tl.constexpr):
    i = tl.arange(0, N)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(out + i, a // b)
    tl.store(out + N + i, a % b)
    tl.store(out + 2 * N + i, a >> 3)
    tl.store(out + 3 * N + i, tl.maximum(a, b))
    tl.store(out + 4 * N + i, tl.where(a < b, a, b))
    tl.store(out + 5 * N + i, tl.umulhi(a, b))


def test_unsigned_integers_read_as_unsigned() -> None:
    generator = np.random.default_rng(6)
    a = generator.integers(0, 2**32, 64, dtype=np.uint32)
    b = generator.integers(1, 2**32, 64, dtype=np.uint32)
    out = np.zeros((6, 64), np.uint32)
    with Lockstep():
        _unsigned[(1,)](torch.from_numpy(a), torch.from_numpy(b), torch.from_numpy(out), 64)
    np.testing.assert_array_equal(out[0], a // b)
    np.testing.assert_array_equal(out[1], a % b)
    np.testing.assert_array_equal(out[2], a >> 3)
    np.testing.assert_array_equal(out[3], np.maximum(a, b))
    np.testing.assert_array_equal(out[4], np.minimum(a, b))
    np.testing.assert_array_equal(out[5], (a.astype(np.uint64) * b >> 32).astype(np.uint32))


@triton.jit
def _division(x, y, out, N: tl.constexpr):
    i = tl.arange(0, N)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(out + i, a // b)
    tl.store(out + N + i, a % b)


def test_division_by_zero_does_not_stop_the_launch() -> None:
    x = torch.tensor([7, -7, 7, 0], dtype=torch.int32)
    y = torch.tensor([0, 2, -2, 3], dtype=torch.int32)
    out = torch.zeros(8, dtype=torch.int32)
    with Lockstep():
        _division[(1,)](x, y, out, 4)
    assert out[1:4].tolist() == [-3, -3, 0]
    assert out[5:].tolist() == [-1, 1, 0]


@triton.jit
def _mixed(x, out):
    a = tl.load(x)
    tl.store(out, a * 0.1)
    tl.static_assert((a * 0.1).dtype == tl.bfloat16)
    tl.static_assert((a.to(tl.float32) * a).dtype == tl.float32)
    tl.static_assert((tl.program_id(0) + tl.full([], 1, tl.int64)).dtype == tl.int64)


def test_promotion_is_triton_s() -> None:
    out = torch.zeros(1, dtype=torch.bfloat16)
    with Lockstep():
        _mixed[(1,)](torch.tensor([3.0], dtype=torch.bfloat16), out)
    assert out.item() == (torch.tensor(3.0) * torch.tensor(0.1).bfloat16().float()).bfloat16().item()


@triton.jit
def _device_library(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    a = tl.load(x + i)
    tl.store(out + i, tl.extra.cuda.libdevice.rint(a))
    tl.store(out + N + i, tl.extra.cuda.libdevice.round(a))
    tl.store(out + 2 * N + i, tl.extra.cuda.libdevice.trunc(a))
    tl.store(out + 3 * N + i, tl.erf(a))


def test_the_device_library_s_roundings() -> None:
    x = torch.tensor([-2.5, -1.5, -0.5, -0.4, 0.5, 1.5, 2.5, 0.49999997])
    out = torch.zeros(4, 8)
    with Lockstep():
        _device_library[(1,)](x, out, 8)
    assert out[0].tolist() == [-2.0, -2.0, 0.0, 0.0, 0.0, 2.0, 2.0, 0.0]
    assert out[1].tolist() == [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 0.0]
    assert torch.equal(out[2], x.trunc())
    torch.testing.assert_close(out[3], torch.erf(x), rtol=0, atol=1e-7)


@triton.jit
def _magnitude(x, out, N: tl.constexpr):
    lanes = tl.arange(0, N)
    tl.store(out + lanes, tl.abs(tl.load(x + lanes)))


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
)
def test_the_magnitude_of_fp8_has_no_sign(dtype):
    codes = torch.arange(256, dtype=torch.int16).to(torch.uint8)
    out = torch.zeros(256, dtype=torch.uint8)
    with Lockstep():
        _magnitude[(1,)](codes.view(dtype), out.view(dtype), N=256)
    assert torch.equal(out, codes & 0x7F)


@triton.jit
def _compare_fp8(x, y, out):
    tl.store(out, tl.load(x) < tl.load(y))


def test_fp8_codes_are_not_compared_as_if_they_were_integers():
    low, high = torch.tensor([-2.0]).to(torch.float8_e4m3fn), torch.tensor([1.0]).to(torch.float8_e4m3fn)
    with Lockstep(), pytest.raises(UnsupportedFeature, match="arithmetic on e4m3fn"):
        _compare_fp8[(1,)](low, high, torch.zeros(1, dtype=torch.bool))
