"""Loads and stores of every type, block pointers, descriptors and atomics."""

import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep

DTYPES = (
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2),
)


@triton.jit
def _copy(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_element_type_copies_its_bits(dtype: torch.dtype) -> None:
    raw = torch.randint(0, 256, (64, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x = (raw[:, 0] > 100) if dtype == torch.bool else raw.reshape(-1).view(dtype)[:64].clone()
    out = torch.zeros(64).to(dtype)
    with Lockstep() as machine:
        _copy[(1,)](x, out, 64)
    assert torch.equal(out.view(torch.uint8), x.view(torch.uint8))
    assert machine.violations == []


@triton.jit
def _strided(x, out, row, column, M: tl.constexpr, N: tl.constexpr):
    m, n = tl.arange(0, M), tl.arange(0, N)
    block = tl.load(x + m[:, None] * row + n[None, :] * column, mask=(n < N - 1)[None, :], other=7.0)
    tl.store(out + m[:, None] * N + n[None, :], block)


def test_views_start_at_their_own_first_element() -> None:
    whole = torch.randn(20, 40)
    x = whole[3:11, 5:37:2].T
    out = torch.zeros(16, 8)
    with Lockstep() as machine:
        _strided[(1,)](x, out, x.stride(0), x.stride(1), 16, 8)
    assert torch.equal(out[:, :7], x[:, :7])
    assert (out[:, 7] == 7).all()
    assert machine.violations == []


@triton.jit
def _wide_offset(x, index, out):
    tl.store(out, tl.load(x + tl.load(index).to(tl.int64) * 3000000000 // 1500000000))


def test_offsets_of_64_bits() -> None:
    x, out = torch.arange(4.0), torch.zeros(1)
    with Lockstep() as machine:
        _wide_offset[(1,)](x, torch.tensor([1]), out)
    assert out.item() == 2.0
    assert machine.violations == []


@triton.jit
def _reinterpreted(x, out):
    words = x.to(tl.pointer_type(tl.int32))
    tl.store(out + tl.arange(0, 4), tl.load(words + tl.arange(0, 4)))


def test_pointer_casts() -> None:
    x, out = torch.randn(4), torch.zeros(4, dtype=torch.int32)
    with Lockstep() as machine:
        _reinterpreted[(1,)](x, out)
    assert torch.equal(out, x.view(torch.int32))
    assert machine.violations == []


@triton.jit
def _block_pointer(x, out, M, N, BM: tl.constexpr, BN: tl.constexpr):
    source = tl.make_block_ptr(x, (M, N), (N, 1), (tl.program_id(0) * BM, 0), (BM, BN), (1, 0))
    target = tl.make_block_ptr(out, (M, N), (N, 1), (tl.program_id(0) * BM, 0), (BM, BN), (1, 0))
    for _ in range(tl.cdiv(N, BN)):
        block = tl.load(source, boundary_check=(0, 1), padding_option="zero")
        tl.store(target, block * 2, boundary_check=(0, 1))
        source = tl.advance(source, (0, BN))
        target = tl.advance(target, (0, BN))


@pytest.mark.skipif("removed" in str(tl.make_block_ptr.__doc__), reason="this Triton has no block pointers")
def test_block_pointers() -> None:
    x, out = torch.randn(13, 21), torch.zeros(13, 21)
    with Lockstep() as machine:
        _block_pointer[(4,)](x, out, 13, 21, 4, 8)
    assert torch.equal(out, 2 * x)
    assert machine.violations == []


@triton.jit
def _descriptor(x, out, M, N, BM: tl.constexpr, BN: tl.constexpr):
    source = tl.make_tensor_descriptor(x, shape=[M, N], strides=[N, 1], block_shape=[BM, BN])
    target = tl.make_tensor_descriptor(out, shape=[M, N], strides=[N, 1], block_shape=[BM, BN])
    row, column = tl.program_id(0) * BM, tl.program_id(1) * BN
    target.store([row, column], source.load([row, column]) + 1)


def test_tensor_descriptors() -> None:
    x, out = torch.randn(13, 20), torch.zeros(13, 20)
    with Lockstep() as machine:
        _descriptor[(4, 3)](x, out, 13, 20, 4, 8)
    assert torch.equal(out, x + 1)
    assert machine.violations == []


@triton.jit
def _counting(x, bins, order, N: tl.constexpr):
    i = tl.program_id(0) * N + tl.arange(0, N)
    value = tl.load(x + i)
    before = tl.atomic_add(bins + value, 1, mask=value != 3)
    tl.store(order + i, before, mask=value != 3)


def test_atomic_add_returns_each_old_value_once() -> None:
    x = torch.randint(0, 8, (4 * 32,), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    bins, order = torch.zeros(8, dtype=torch.int32), torch.full((128,), -1, dtype=torch.int32)
    with Lockstep() as machine:
        _counting[(4,)](x, bins, order, 32)
    expected = torch.bincount(x, minlength=8).int()
    expected[3] = 0
    assert torch.equal(bins, expected)
    for value in (0, 1, 2, 4, 5, 6, 7):
        assert order[x == value].tolist() == list(range(int(expected[value])))
    assert machine.violations == []


@triton.jit
def _atomics(x, out, N: tl.constexpr):
    p = tl.program_id(0)
    value = tl.load(x + p)
    tl.atomic_max(out, value)
    tl.atomic_min(out + 1, value)
    tl.atomic_and(out + 2, value)
    tl.atomic_or(out + 3, value)
    tl.atomic_xor(out + 4, value)
    tl.atomic_xchg(out + 5, value)
    tl.atomic_cas(out + 6, N, value)


def test_integer_atomics() -> None:
    values = [5, -3, 12, 9]
    x = torch.tensor(values, dtype=torch.int32)
    out = torch.tensor([0, 0, -1, 0, 0, 0, 77], dtype=torch.int32)
    with Lockstep() as machine:
        _atomics[(4,)](x, out, 77)
    assert out.tolist() == [12, -3, 5 & -3 & 12 & 9, 5 | -3 | 12 | 9, 5 ^ -3 ^ 12 ^ 9, 9, 5]
    assert machine.violations == []


@triton.jit
def _float_atomics(x, total, top, low):
    value = tl.load(x + tl.program_id(0))
    tl.atomic_add(total, value)
    tl.atomic_max(top, value)
    tl.atomic_min(low, value)


def test_float_atomics_add_in_program_order() -> None:
    x = torch.randn(16, generator=torch.Generator().manual_seed(2)) * 1e3
    total, top, low = torch.zeros(1), torch.zeros(1), torch.zeros(1)
    with Lockstep() as machine:
        _float_atomics[(16,)](x, total, top, low)
    expected = torch.zeros(1)
    for value in x:
        expected += value
    assert torch.equal(total, expected)
    assert top.item() == max(0.0, x.max().item())
    assert low.item() == min(0.0, x.min().item())
    assert machine.violations == []


@triton.jit
def _few_bins(x, bins, old, N: tl.constexpr, BINS: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(old + i, tl.atomic_add(bins + i * i % BINS, tl.load(x + i), mask=i > 3), mask=i > 3)


@pytest.mark.parametrize("bins", [1, 7, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64])
def test_many_lanes_add_to_few_bins_in_order(dtype: torch.dtype, bins: int) -> None:
    """Each lane rounds, or wraps, and finds what all lanes before it have left."""
    x = torch.randn(256, generator=torch.Generator().manual_seed(4)) * 100
    x = x.to(dtype) if dtype.is_floating_point else (x * 1e9).to(torch.int64).to(dtype)
    total, old = torch.ones(bins, dtype=dtype), torch.zeros(256, dtype=dtype)
    with Lockstep() as machine:
        _few_bins[(1,)](x, total, old, 256, bins)
    wanted, found = torch.ones(bins, dtype=dtype), torch.zeros(256, dtype=dtype)
    for i in range(4, 256):
        found[i] = wanted[i * i % bins]
        wanted[i * i % bins] += x[i]
    assert torch.equal(total, wanted)
    assert torch.equal(old, found)
    assert machine.violations == []


def test_a_tensor_elsewhere_is_refused() -> None:
    with Lockstep(), pytest.raises(ValueError, match="meta"):
        _copy[(1,)](torch.zeros(4, device="meta"), torch.zeros(4), 4)


@triton.jit
def _poll(x, out, N: tl.constexpr):
    i = tl.program_id(0) * N + tl.arange(0, N)
    tl.store(out + i, tl.atomic_poll(x + i, 7, timeout_ns=1000).to(tl.int32))


@pytest.mark.skipif(not hasattr(tl, "atomic_poll"), reason="newer releases of Triton have it")
def test_a_poll_with_a_limit_looks_once() -> None:
    x, out = torch.tensor([7, 1, 7, 0, 7, 7, 7, 7], dtype=torch.int32), torch.empty(8, dtype=torch.int32)
    with Lockstep() as machine:
        _poll[(2,)](x, out, N=4)
    assert out.tolist() == [1, 0, 1, 0, 1, 1, 1, 1]
    assert machine.violations == []


@triton.jit
def _absolute_code(x, out):
    i = tl.arange(0, 256)
    tl.store(out + i, tl.abs(tl.load(x + i)))


def test_the_absolute_value_of_a_format_that_is_only_a_name() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    out = torch.zeros(256, dtype=torch.uint8)
    with Lockstep():
        _absolute_code[(1,)](triton.reinterpret(codes, tl.float8e4b15), triton.reinterpret(out, tl.float8e4b15))
    assert out.tolist() == [code & 0x7F for code in range(256)]
