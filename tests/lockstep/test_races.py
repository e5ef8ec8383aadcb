"""Races between the programs of one launch."""

import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep


@triton.jit
def _rows(x, out, stride, N: tl.constexpr):
    p = tl.program_id(0)
    i = tl.arange(0, N)
    tl.store(out + p * stride + i, tl.load(x + p * N + i))


@triton.jit
def _same_value(out):
    tl.store(out, 3.0)
    tl.store(out + 1 + tl.program_id(0) // 2, (tl.program_id(0) // 2).to(tl.float32))


@triton.jit
def _slots(slots, out, N: tl.constexpr):
    p = tl.program_id(0)
    slot = tl.load(slots + p)
    if slot >= 0:
        tl.store(out + slot * N + tl.arange(0, N), p.to(tl.float32))


@triton.jit
def _shift(x, N: tl.constexpr):
    i = tl.program_id(0) * N + tl.arange(0, N)
    tl.store(x + i, tl.load(x + i + 1))


@triton.jit
def _in_place(x, N: tl.constexpr):
    i = tl.program_id(0) * N + tl.arange(0, N)
    tl.store(x + i, tl.load(x + i) * 2)


@triton.jit
def _total(x, out):
    p = tl.program_id(0)
    tl.store(out, tl.load(out) + tl.load(x + p))


@triton.jit
def _atomic_total(x, out):
    tl.atomic_add(out, tl.load(x + tl.program_id(0)))


@triton.jit
def _words_and_bytes(out):
    p = tl.program_id(0)
    if p == 0:
        tl.store(out.to(tl.pointer_type(tl.int32)), 0x01020304)
    else:
        tl.store(out + p, p.to(tl.int8))


@triton.jit
def _flag(flag, data, out):
    p = tl.program_id(0)
    if p == 0:
        tl.store(data, 7.0)
    else:
        tl.store(out + p, tl.load(data))


@triton.jit
def _columns(out, step, rows, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + tl.program_id(0) * step + i * 4, tl.program_id(0).to(tl.float32), mask=i < rows)


@triton.jit
def _values_and_scales(out, slots, tokens, N: tl.constexpr):
    slot = tl.load(slots + tl.program_id(0))
    tl.store(out + slot * N + tl.arange(0, N), (tl.program_id(0) + tl.zeros((N,), tl.int32)).to(tl.int8))
    scales = (out + tokens * N).to(tl.pointer_type(tl.float32))
    tl.store(scales + slot, tl.program_id(0).to(tl.float32))


@triton.jit
def _fill_then_write(out, N: tl.constexpr):
    place = out + tl.program_id(0) + tl.arange(0, N) * 4
    tl.store(place, 0.0)
    tl.store(place, 1.0)


@triton.jit
def _read_other_columns(x, shift, N: tl.constexpr):
    place = tl.program_id(0) + tl.arange(0, N) * 4
    values = tl.load(x + place + shift)
    tl.store(x + place, values + 1)


def _kinds(machine: Lockstep) -> list[str]:
    return [v.kind for v in machine.drain()]


def test_rows_that_overlap() -> None:
    x = torch.randn(4, 16)
    with Lockstep() as machine:
        _rows[(4,)](x, torch.zeros(80), 16, 16)
        assert _kinds(machine) == []
        _rows[(4,)](x, torch.zeros(80), 15, 16)
        (found,) = machine.drain()
    assert (found.kind, found.argument, found.byte_offset) == ("race", "out", 60)
    assert found.file.endswith("test_races.py")


def test_the_same_bytes_from_two_programs_are_no_race() -> None:
    with Lockstep() as machine:
        _same_value[(8,)](torch.zeros(8))
    assert _kinds(machine) == []


def test_a_repeated_slot() -> None:
    out = torch.zeros(10, 8)
    with Lockstep() as machine:
        _slots[(5,)](torch.tensor([3, 0, -1, 7, 2]), out, 8)
        assert _kinds(machine) == []
        _slots[(5,)](torch.tensor([3, 0, -1, 3, 2]), out, 8)
        assert _kinds(machine) == ["race"]


def test_reading_what_a_neighbour_writes() -> None:
    with Lockstep() as machine:
        _shift[(4,)](torch.randn(33), 8)
        (found,) = machine.drain()
        assert (found.kind, found.program, found.byte_offset) == ("race", (0, 0, 0), 32)
        assert "what program (1, 0, 0) on line" in found.detail
        _in_place[(4,)](torch.randn(32), 8)
        assert _kinds(machine) == []
        _shift[(1,)](torch.randn(33), 8)
    assert _kinds(machine) == []


def test_accumulating_without_an_atomic() -> None:
    x = torch.randn(6)
    with Lockstep() as machine:
        _total[(6,)](x, torch.zeros(1))
        assert "race" in _kinds(machine)
        _atomic_total[(6,)](x, torch.zeros(1))
    assert _kinds(machine) == []


def test_accumulating_equal_values_without_an_atomic() -> None:
    """Both programs store the same, made from what either had to leave to the other."""
    total = torch.zeros(1)
    with Lockstep() as machine:
        _total[(2,)](torch.ones(2), total)
        (found,) = machine.drain()
        assert (found.kind, found.argument) == ("race", "out")
        assert (found.program, found.line) == ((0, 0, 0), 47)
        assert found.detail.startswith("a program loads what program (1, 0, 0) on line 47 stores in out [")
        _total[(1,)](torch.ones(1), total)
        _store_and_load[(4,)](total, torch.zeros(4))
        _twice[(2,)](torch.zeros(2))
    assert _kinds(machine) == []


@triton.jit
def _store_and_load(x, out):
    tl.store(x, 3.0)
    tl.store(out + tl.program_id(0), tl.load(x))


@triton.jit
def _twice(x):
    place = x + tl.program_id(0)
    for _ in range(2):
        tl.store(place, tl.load(place) + 1)


def test_stores_of_different_sizes() -> None:
    with Lockstep() as machine:
        _words_and_bytes[(3,)](torch.zeros(8, dtype=torch.int8))
        assert _kinds(machine) == ["race"]
        _words_and_bytes[(1,)](torch.zeros(8, dtype=torch.int8))
    assert _kinds(machine) == []


def test_programs_of_different_paths_are_one_launch() -> None:
    with Lockstep() as machine:
        _flag[(4,)](None, torch.zeros(1), torch.zeros(4))
    assert _kinds(machine) == ["race"]


def test_far_apart_addresses() -> None:
    out = torch.zeros(1 << 25, dtype=torch.int8)
    with Lockstep() as machine:
        _slots[(3,)](torch.tensor([0, (1 << 25) - 8, 1 << 24]), out.view(-1), 1)
        assert _kinds(machine) == []
        _slots[(3,)](torch.tensor([5, (1 << 25) - 8, (1 << 25) - 8]), out.view(-1), 1)
    assert _kinds(machine) == ["race"]


def test_interleaved_columns() -> None:
    with Lockstep() as machine:
        _columns[(4,)](torch.zeros(32), 1, 8, 8)
        _fill_then_write[(4,)](torch.zeros(32), 8)
        assert _kinds(machine) == []
        _columns[(4,)](torch.zeros(32), 4, 3, 8)
    assert _kinds(machine) == ["race"]


def test_values_of_one_size_and_scales_of_another() -> None:
    out = torch.zeros(8 * 20, dtype=torch.int8)
    with Lockstep() as machine:
        _values_and_scales[(4,)](out, torch.tensor([6, 1, 4, 3]), 8, 16)
        assert _kinds(machine) == []
        _values_and_scales[(4,)](out, torch.tensor([6, 1, 4, 3]), 6, 16)  # a scale lies in the values of token 6
        assert _kinds(machine) == ["race"]


def test_reading_columns_that_another_program_writes() -> None:
    with Lockstep() as machine:
        _read_other_columns[(4,)](torch.zeros(40), 0, 8)
        assert _kinds(machine) == []
        _read_other_columns[(4,)](torch.zeros(40), 1, 8)
    assert _kinds(machine) == ["race"]


def test_launches_do_not_race_with_each_other() -> None:
    x, out = torch.randn(4, 16), torch.zeros(64)
    with Lockstep() as machine:
        for _ in range(3):
            _rows[(4,)](x, out, 16, 16)
            _rows[(4,)](out, x, 16, 16)
    assert _kinds(machine) == []


@pytest.mark.parametrize("rows", [2, 100])
def test_switched_off(rows: int) -> None:
    with Lockstep(checkers=["bounds", "overflow", "undefined", "promises"]) as machine:
        _rows[(rows,)](torch.randn(rows, 16), torch.zeros(rows * 16), 0, 16)
    assert _kinds(machine) == []
