"""32-bit arithmetic that overflows and reaches an address."""

import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep


@triton.jit
def _page(x, block, stride, out, WIDE: tl.constexpr):
    b = tl.load(block + tl.program_id(0))
    if WIDE:
        b = b.to(tl.int64)
    tl.store(out + tl.program_id(0), tl.load(x + b * stride))


@triton.jit
def _sum(x, a, b, out):
    tl.store(out, tl.load(x + (tl.load(a) + tl.load(b))))


@triton.jit
def _difference(x, a, b, out):
    tl.store(out, tl.load(x + (tl.load(a) - tl.load(b))))


@triton.jit
def _shift(x, a, out):
    tl.store(out, tl.load(x + (tl.load(a) << 8)))


@triton.jit
def _block(x, stride, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i * stride, mask=i < 2, other=0.0))


@triton.jit
def _block_all(x, stride, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i * stride))


@triton.jit
def _widened_late(x, a, stride, out):
    tl.store(out, tl.load(x + (tl.load(a) * stride).to(tl.int64) // 4))


@triton.jit
def _selected(x, a, stride, limit, out):
    product = tl.load(a) * stride
    tl.store(out, tl.load(x + tl.where(stride < limit, product, 0)))


@triton.jit
def _hash(x, out, seed):
    i = tl.arange(0, 16)
    h = i * 1640531527 + seed
    h = (h ^ (h >> 13)) * 1274126177
    tl.store(out + i, h)


@triton.jit
def _unsigned(x, a, out):
    offset = tl.load(a).to(tl.uint32) + 0x80000000
    tl.store(out, tl.load(x + (offset - 0x80000000)))


@triton.jit
def _unsigned_wrap(x, a, out):
    tl.store(out, tl.load(x + (tl.load(a).to(tl.uint32) * 65536)))


def _kinds(machine: Lockstep) -> set[str]:
    return {v.kind for v in machine.drain()}


@pytest.mark.parametrize("stride", [8448, 1 << 20])
def test_block_id_times_stride(stride: int) -> None:
    x, out = torch.zeros(8, dtype=torch.uint8), torch.zeros(2, dtype=torch.uint8)
    block = torch.tensor([0, (1 << 31) // stride + 1], dtype=torch.int32)
    with Lockstep() as machine:
        _page[(2,)](x, block, stride, out, False)
        found = {v.kind: v for v in machine.drain()}
        assert found["overflow"].program == (1, 0, 0)
        assert found["overflow"].argument == "x"
        _page[(2,)](x, block, stride, out, True)
        assert _kinds(machine) == {"out-of-bounds"}
        _page[(2,)](x, block * 0, stride, out, False)
        assert _kinds(machine) == set()


def test_sums_differences_and_shifts() -> None:
    x, out = torch.zeros(8), torch.zeros(1)
    top, low, one = (torch.tensor([v], dtype=torch.int32) for v in (2**31 - 1, -(2**31), 1))
    with Lockstep() as machine:
        _sum[(1,)](x, top, one, out)
        assert "overflow" in _kinds(machine)
        _difference[(1,)](x, low, one, out)
        assert "overflow" in _kinds(machine)
        _shift[(1,)](x, torch.tensor([1 << 24], dtype=torch.int32), out)
        assert "overflow" in _kinds(machine)
        _sum[(1,)](x, one, one, out)
        _difference[(1,)](x, one, one, out)
        _shift[(1,)](x, one * 0, out)
        assert _kinds(machine) == set()


def test_only_active_lanes_count() -> None:
    x, out = torch.zeros(8), torch.zeros(16)
    with Lockstep() as machine:
        _block[(1,)](x, 1 << 28, out, 16)
        assert "overflow" not in _kinds(machine)
        _block_all[(1,)](x, 1 << 28, out, 16)
        assert "overflow" in _kinds(machine)


def test_an_overflow_is_remembered_through_division_and_widening() -> None:
    x, out = torch.zeros(1 << 10), torch.zeros(1)
    with Lockstep() as machine:
        _widened_late[(1,)](x, torch.tensor([1 << 16], dtype=torch.int32), 1 << 16, out)
        assert _kinds(machine) == {"overflow"}


def test_a_lane_not_chosen_does_not_count() -> None:
    x, out, a = torch.zeros(8), torch.zeros(1), torch.tensor([1 << 20], dtype=torch.int32)
    with Lockstep() as machine:
        _selected[(1,)](x, a, 1 << 20, 100, out)
        assert _kinds(machine) == set()
        _selected[(1,)](x, a, 1 << 20, 1 << 21, out)
        assert "overflow" in _kinds(machine)


def test_hashing_that_reaches_no_address_is_silent_and_wraps() -> None:
    out = torch.zeros(16, dtype=torch.int32)
    with Lockstep() as machine:
        _hash[(1,)](None, out, 2**31 - 5)
    assert _kinds(machine) == set()
    i = torch.arange(16)

    def wrapped(v: torch.Tensor) -> torch.Tensor:
        return (v + 2**31) % 2**32 - 2**31

    h = wrapped(i * 1640531527 + 2**31 - 5)
    assert torch.equal(out.long(), wrapped((h ^ (h >> 13)) * 1274126177))


def test_unsigned_arithmetic_overflows_at_2_to_the_32() -> None:
    x, out = torch.arange(8.0), torch.zeros(1)
    with Lockstep() as machine:
        _unsigned[(1,)](x, torch.tensor([3], dtype=torch.int32), out)
        assert _kinds(machine) == set()
        assert out.item() == 3
        _unsigned_wrap[(1,)](x, torch.tensor([1 << 16], dtype=torch.int32), out)
        assert _kinds(machine) == {"overflow"}


def test_switched_off() -> None:
    x, out = torch.zeros(8), torch.zeros(1)
    with Lockstep(checkers=["races"]) as machine:
        _shift[(1,)](x, torch.tensor([1 << 24], dtype=torch.int32), out)
    assert _kinds(machine) == set()
