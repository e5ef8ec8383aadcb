"""Reductions, scans, sorting and dot products."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep


def tree(x: np.ndarray, axis: int) -> np.ndarray:
    """Halves added until one is left: the documented order."""
    while x.shape[axis] > 1:
        low, high = np.split(x, 2, axis)
        x = low + high
    return x.squeeze(axis)


@triton.jit
def _sums(x, out, M: tl.constexpr, N: tl.constexpr):
    m, n = tl.arange(0, M), tl.arange(0, N)
    block = tl.load(x + m[:, None] * N + n[None, :])
    tl.store(out + m, tl.sum(block, axis=1))
    tl.store(out + M + n, tl.sum(block, 0))
    tl.store(out + M + N, tl.sum(block))
    tl.store(out + M + N + 1 + m[:, None], tl.sum(block, 1, keep_dims=True))


def test_sum_is_a_tree_of_halves() -> None:
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    out = torch.zeros(8 + 64 + 1 + 8)
    with Lockstep():
        _sums[(1,)](x, out, 8, 64)
    np.testing.assert_array_equal(out[:8], tree(x.numpy(), 1))
    np.testing.assert_array_equal(out[8:72], tree(x.numpy(), 0))
    np.testing.assert_array_equal(out[72], tree(x.numpy().reshape(-1), 0))
    np.testing.assert_array_equal(out[73:], tree(x.numpy(), 1))


@triton.jit
def _extremes(x, out, at, N: tl.constexpr):
    row = tl.program_id(0)
    n = tl.arange(0, N)
    values = tl.load(x + row * N + n)
    tl.store(out + row * 2, tl.max(values, axis=0))
    tl.store(out + row * 2 + 1, tl.min(values, axis=-1))
    tl.store(at + row * 2, tl.argmax(values, 0))
    tl.store(at + row * 2 + 1, tl.argmin(values, 0))


def test_max_and_min_with_ties_and_signed_zeros() -> None:
    x = torch.randint(-3, 4, (16, 32), generator=torch.Generator().manual_seed(1)).float()
    x[3] = 0.0
    x[3, 5] = -0.0
    x[4] = -0.0
    out, at = torch.zeros(16, 2), torch.zeros(16, 2, dtype=torch.int32)
    with Lockstep():
        _extremes[(16,)](x, out, at, 32)
    np.testing.assert_array_equal(out[:, 0], x.numpy().max(1))
    np.testing.assert_array_equal(out[:, 1], x.numpy().min(1))
    np.testing.assert_array_equal(at[:, 0], x.numpy().argmax(1))
    np.testing.assert_array_equal(at[:, 1], x.numpy().argmin(1))
    assert not torch.signbit(out[3, 0])
    assert torch.signbit(out[4, 0])


def test_max_drops_nan_like_the_hardware() -> None:
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    x[0, 3] = float("nan")
    x[1] = float("nan")
    out, at = torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.int32)
    with Lockstep():
        _extremes[(3,)](x, out, at, 32)
    assert out[0, 0] == np.nanmax(x[0].numpy())
    assert torch.isnan(out[1, 0])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8, torch.uint8, torch.int64, torch.bfloat16, torch.float16])
def test_max_of_other_types(dtype: torch.dtype) -> None:
    x = torch.randint(0, 100, (4, 32), generator=torch.Generator().manual_seed(3)).to(dtype)
    out, at = torch.zeros(4, 2, dtype=dtype), torch.zeros(4, 2, dtype=torch.int32)
    with Lockstep():
        _extremes[(4,)](x, out, at, 32)
    assert torch.equal(out[:, 0], x.amax(1))
    assert torch.equal(out[:, 1], x.amin(1))


@triton.jit
def _weighted(a, b):
    return a * 0.5 + b


@triton.jit
def _pair(a, i, b, j):
    keep = a >= b
    return tl.where(keep, a, b), tl.where(keep, i, j)


@triton.jit
def _branching(a, b):
    if a > b:
        return a
    return b


@triton.jit
def _custom(x, out, at, N: tl.constexpr):
    n = tl.arange(0, N)
    values = tl.load(x + n)
    tl.store(out, tl.reduce(values, 0, _weighted))
    best, where = tl.reduce((values, n), 0, _pair)
    tl.store(out + 1, best)
    tl.store(at, where)
    tl.store(out + 2, tl.reduce(values, 0, _branching))


def test_reduce_with_any_combine_function() -> None:
    x = torch.randn(16, generator=torch.Generator().manual_seed(4))
    out, at = torch.zeros(3), torch.zeros(1, dtype=torch.int32)
    with Lockstep():
        _custom[(1,)](x, out, at, 16)
    values = x.numpy()
    while values.size > 1:
        low, high = np.split(values, 2)
        values = (low * np.float32(0.5) + high).astype(np.float32)
    assert out[0] == values[0]
    assert out[1] == x.max()
    assert at.item() == x.argmax()
    assert out[2] == x.max()


@triton.jit
def _integer_sums(x, out, N: tl.constexpr):
    values = tl.load(x + tl.arange(0, N))
    tl.store(out, tl.sum(values, 0))
    tl.store(out + 1, tl.xor_sum(values, 0))
    tl.store(out + 2, tl.sum((values > 50).to(tl.int32), 0))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.uint8])
def test_integer_sums_widen(dtype: torch.dtype) -> None:
    x = torch.randint(0, 127, (32,), generator=torch.Generator().manual_seed(5)).to(dtype)
    out = torch.zeros(3, dtype=torch.int32)
    with Lockstep() as machine:
        _integer_sums[(1,)](x, out, 32)
    assert out.tolist() == [int(x.int().sum()), int(np.bitwise_xor.reduce(x.numpy())), int((x > 50).sum())]
    assert machine.violations == []


@triton.jit
def _scans(x, out, M: tl.constexpr, N: tl.constexpr):
    m, n = tl.arange(0, M), tl.arange(0, N)
    place = m[:, None] * N + n[None, :]
    block = tl.load(x + place)
    tl.store(out + place, tl.cumsum(block, 1))
    tl.store(out + M * N + place, tl.cumsum(block, 0))
    tl.store(out + 2 * M * N + place, tl.cumsum(block, 1, reverse=True))
    tl.store(out + 3 * M * N + place, tl.cumprod(block, 1))
    tl.store(out + 4 * M * N + place, tl.associative_scan(block, 1, _branching))


def test_scans() -> None:
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(6))
    out = torch.zeros(5, 4, 16)
    with Lockstep():
        _scans[(1,)](x, out, 4, 16)
    a = x.numpy()
    np.testing.assert_array_equal(out[0], np.add.accumulate(a, 1))
    np.testing.assert_array_equal(out[1], np.add.accumulate(a, 0))
    np.testing.assert_array_equal(out[2], np.add.accumulate(a[:, ::-1], 1)[:, ::-1])
    np.testing.assert_array_equal(out[3], np.multiply.accumulate(a, 1))
    np.testing.assert_array_equal(out[4], np.maximum.accumulate(a, 1))


@triton.jit
def _count_in_group(x, y):
    group = x & 0xFF00
    return tl.where(group == (y & 0xFF00), x + y - group, y)


@triton.jit
def _integer_scans(x, out, M: tl.constexpr, N: tl.constexpr):
    m, n = tl.arange(0, M), tl.arange(0, N)
    place = m[:, None] * N + n[None, :]
    block = tl.load(x + place)
    tl.store(out + place, tl.cumsum(block, 1))
    tl.store(out + M * N + place, tl.cumsum(block, 0, reverse=True))
    tl.store(out + 2 * M * N + place, tl.associative_scan(block, 1, _count_in_group))
    tl.store(out + 3 * M * N + place, tl.associative_scan(block, 1, _branching, reverse=True))


def test_scans_of_integers() -> None:
    """Doubling gives what going from one end to the other does; the values are group << 8 | 1, sums wrap."""
    groups = torch.randint(0, 3, (4, 64), generator=torch.Generator().manual_seed(9)).sort(1).values
    x = (groups << 8 | 1).int()
    x[3] *= 1 << 20
    out = torch.zeros(4, 4, 64, dtype=torch.int32)
    with Lockstep() as machine:
        _integer_scans[(1,)](x, out, 4, 64)
    assert torch.equal(out[0], x.cumsum(1).int())
    assert torch.equal(out[1], x.flip(0).cumsum(0).flip(0).int())
    rank = torch.stack([(groups[:, : i + 1] == groups[:, i : i + 1]).sum(1) for i in range(64)], 1)
    assert torch.equal(out[2][:3], (groups << 8).int()[:3] + rank.int()[:3])
    assert torch.equal(out[3], x.flip(1).cummax(1).values.flip(1))
    assert machine.violations == []


@triton.jit
def _scan_of_undefined(x, out, N: tl.constexpr):
    n = tl.arange(0, N)
    total = tl.cumsum(tl.load(x + n, mask=n != 5), 0)
    tl.store(out + n, total, mask=n < 5)
    tl.store(out + N + n, total, mask=n > 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int32])
def test_a_scan_is_undefined_from_an_undefined_lane_on(dtype: torch.dtype) -> None:
    x, out = torch.arange(16).to(dtype), torch.zeros(32, dtype=dtype)
    with Lockstep() as machine:
        _scan_of_undefined[(1,)](x, out, 16)
    assert out[:5].tolist() == [0, 1, 3, 6, 10]
    (violation,) = machine.violations
    assert violation.kind == "uninitialised"
    assert violation.lane == (5,)


@triton.jit
def _sorting(x, out, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    block = tl.load(x + m[:, None] * N + n[None, :])
    tl.store(out + m[:, None] * N + n[None, :], tl.sort(block, descending=True))
    tl.store(out + M * N + m[:, None] * K + k[None, :], tl.topk(block, K))


def test_sort_and_topk() -> None:
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(7))
    out = torch.zeros(4 * 32 + 4 * 8)
    with Lockstep():
        _sorting[(1,)](x, out, 4, 32, 8)
    expected = x.sort(1, descending=True).values
    assert torch.equal(out[:128].view(4, 32), expected)
    assert torch.equal(out[128:].view(4, 8), expected[:, :8])


@triton.jit
def _histogram(x, out):
    tl.store(out + tl.arange(0, 8), tl.histogram(tl.load(x + tl.arange(0, 64)), 8))


def test_histogram() -> None:
    x = torch.randint(0, 8, (64,), dtype=torch.int32, generator=torch.Generator().manual_seed(8))
    out = torch.zeros(8, dtype=torch.int32)
    with Lockstep():
        _histogram[(1,)](x, out)
    assert torch.equal(out, torch.bincount(x, minlength=8).int())


@triton.jit
def _dot(x, y, c, out, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a = tl.load(x + tl.program_id(0) * M * K + m[:, None] * K + k[None, :])
    b = tl.load(y + n[None, :] * K + k[:, None])
    acc = tl.load(c + m[:, None] * N + n[None, :])
    place = tl.program_id(0) * M * N + m[:, None] * N + n[None, :]
    tl.store(out + place, tl.dot(a, b, acc=acc).to(tl.float32))


@pytest.mark.parametrize("model", ["ieee", "sm90", "cdna3"])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float16, torch.bfloat16])
def test_dot_of_small_integers_is_exact(dtype: torch.dtype, model: str) -> None:
    generator = torch.Generator().manual_seed(9)
    x = torch.randint(-3, 4, (3, 64, 32), generator=generator).float().to(dtype)
    y = torch.randint(-3, 4, (16, 32), generator=generator).float().to(dtype)
    c = torch.randint(-3, 4, (64, 16), generator=generator).float()
    out = torch.zeros(3, 64, 16)
    with Lockstep(dot=model) as machine:
        _dot[(3,)](x, y, c, out, 64, 16, 32)
    assert torch.equal(out, x.float() @ y.float().T + c)
    assert machine.violations == []


def test_dot_of_int8() -> None:
    generator = torch.Generator().manual_seed(10)
    x = torch.randint(-128, 128, (1, 16, 32), dtype=torch.int8, generator=generator)
    y = torch.randint(-128, 128, (16, 32), dtype=torch.int8, generator=generator)
    c = torch.randint(-100, 100, (16, 16), dtype=torch.int32, generator=generator)
    out = torch.zeros(1, 16, 16)
    with Lockstep():
        _dot_int[(1,)](x, y, c, out, 16, 16, 32)
    assert torch.equal(out[0], (x[0].int() @ y.int().T + c).float())


@triton.jit
def _dot_int(x, y, c, out, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a = tl.load(x + m[:, None] * K + k[None, :])
    b = tl.load(y + n[None, :] * K + k[:, None])
    total = tl.dot(a, b, out_dtype=tl.int32) + tl.load(c + m[:, None] * N + n[None, :])
    tl.store(out + m[:, None] * N + n[None, :], total.to(tl.float32))


def test_an_unknown_matrix_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown matrix unit 'sm10'"):
        Lockstep(dot="sm10")
