"""Accesses outside a tensor, outside a declared buffer, or at an address that their size does not divide."""

from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep, Violation


@triton.jit
def _copy(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n, other=0.0), mask=i < n)


@triton.jit
def _load_at(x, index, out):
    tl.store(out, tl.load(x + tl.load(index)))


@triton.jit
def _store_at(out, index):
    tl.store(out + tl.load(index), 1.0)


@triton.jit
def _add_at(out, index):
    tl.atomic_add(out + tl.load(index), 1.0)


@triton.jit
def _row(x, out, stride, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + tl.program_id(0) * N + i, tl.load(x + tl.program_id(0) * stride + i))


def _only(machine: Lockstep, kind: str) -> Violation:
    (found,) = machine.drain()
    assert found.kind == kind
    assert found.file.endswith("test_bounds.py")
    assert f"def {found.kernel}" in Path(found.file).read_text(encoding="utf-8")
    return found


def test_a_missing_tail_mask() -> None:
    x, out = torch.randn(100), torch.zeros(128)
    with Lockstep() as machine:
        _copy[(2,)](x, out, 128, 64)
    found = _only(machine, "out-of-bounds")
    assert (found.argument, found.program, found.lane, found.byte_offset) == ("x", (1, 0, 0), (36,), 400)
    assert torch.equal(out[:100], x)


@pytest.mark.parametrize("index", [-1, 8, 1 << 20, -(1 << 40)])
def test_a_wild_index(index: int) -> None:
    x, out, at = torch.randn(8), torch.zeros(8), torch.tensor([index])
    with Lockstep() as machine:
        _load_at[(1,)](x, at, out)
        assert _only(machine, "out-of-bounds").byte_offset == 4 * index
        _store_at[(1,)](out, at)
        assert "stores 4 bytes" in _only(machine, "out-of-bounds").message
        _add_at[(1,)](out, at)
        assert _only(machine, "out-of-bounds").argument == "out"
    assert torch.isnan(out[0])
    assert not out[1:].any()


def test_a_stride_of_another_tensor() -> None:
    x, out = torch.randn(4, 16), torch.zeros(4, 16)
    with Lockstep() as machine:
        _row[(4,)](x, out, 24, 16)
    found = _only(machine, "out-of-bounds")
    assert (found.program, found.lane) == ((3, 0, 0), (0,))


def test_only_the_first_lane_of_a_line_is_reported_per_launch() -> None:
    x, out = torch.randn(8), torch.zeros(256)
    with Lockstep() as machine:
        _copy[(4,)](x, out, 256, 64)
        _copy[(4,)](x, out, 256, 64)
    assert [v.program for v in machine.drain()] == [(0, 0, 0)] * 2


def test_a_masked_off_lane_may_point_anywhere() -> None:
    x, out = torch.randn(100), torch.zeros(100)
    with Lockstep() as machine:
        _copy[(2,)](x, out, 100, 64)
    assert machine.drain() == []
    assert torch.equal(x, out)


def test_a_view_may_not_leave_its_storage_backwards() -> None:
    whole = torch.randn(20)
    out = torch.zeros(1)
    with Lockstep() as machine:
        _load_at[(1,)](whole[5:], torch.tensor([-5]), out)
        assert machine.drain() == []
        _load_at[(1,)](whole[5:], torch.tensor([-6]), out)
        assert _only(machine, "out-of-bounds").byte_offset == -24


def test_declared_buffers_shrink_the_storage() -> None:
    whole = torch.zeros(64)
    body, out = whole[16:48], torch.zeros(1)
    with Lockstep() as machine:
        machine.declare("body", body)
        _load_at[(1,)](body, torch.tensor([31]), out)
        assert machine.drain() == []
        _load_at[(1,)](body, torch.tensor([32]), out)
        assert "declared" in _only(machine, "out-of-bounds").message
        _store_at[(1,)](body, torch.tensor([-1]))
        assert _only(machine, "out-of-bounds").byte_offset == -4
    assert not whole.any()


def test_a_declared_view_with_gaps() -> None:
    whole = torch.zeros(8, 16)
    columns = whole[:, :12]
    out = torch.zeros(8, 16)
    with Lockstep() as machine:
        machine.declare("columns", columns)
        for index in (0, 11, 16, 27, 7 * 16 + 11):
            _load_at[(1,)](columns, torch.tensor([index]), out)
        assert machine.drain() == []
        for index in (12, 15, 28, 7 * 16 + 12):
            _load_at[(1,)](columns, torch.tensor([index]), out)
            assert _only(machine, "out-of-bounds").byte_offset == 4 * index


def test_two_declared_buffers_in_one_storage() -> None:
    whole = torch.zeros(64)
    out = torch.zeros(1)
    with Lockstep() as machine:
        machine.declare("low", whole[:8])
        machine.declare("high", whole[32:40])
        for index, good in ((7, True), (8, False), (31, False), (32, True), (39, True), (40, False)):
            _load_at[(1,)](whole, torch.tensor([index]), out)
            assert bool(machine.drain()) is not good


def test_overlapping_elements_cannot_be_declared() -> None:
    with Lockstep() as machine, pytest.raises(ValueError, match="overlap"):
        machine.declare("x", torch.zeros(16).as_strided((4, 4), (2, 1)))


@triton.jit
def _words(x, out, shift):
    words = (x + shift).to(tl.pointer_type(tl.int32))
    tl.store(out + tl.arange(0, 4), tl.load(words + tl.arange(0, 4)))


@triton.jit
def _store_words(out, shift):
    words = (out + shift).to(tl.pointer_type(tl.float32))
    tl.store(words + tl.program_id(0), 1.0)


@pytest.mark.parametrize("shift", [1, 2, 3, 5, 7])
def test_misaligned_loads(shift: int) -> None:
    x, out = torch.arange(32, dtype=torch.uint8), torch.zeros(4, dtype=torch.int32)
    with Lockstep() as machine:
        _words[(1,)](x, out, shift)
    assert _only(machine, "misaligned").byte_offset == shift
    assert torch.equal(out.view(torch.uint8), x[shift : shift + 16])


def test_misaligned_stores_and_aligned_ones() -> None:
    out = torch.zeros(64, dtype=torch.uint8)
    with Lockstep() as machine:
        for shift in (0, 4, 8):
            _store_words[(4,)](out, shift)
        assert machine.drain() == []
        for shift in (2, 6, 9):
            _store_words[(4,)](out, shift)
            assert _only(machine, "misaligned").kernel == "_store_words"


@triton.jit
def _atomic_word(out, shift):
    tl.atomic_add((out + shift).to(tl.pointer_type(tl.int32)), 1)


@triton.jit
def _masked_words(x, out, step, n, N: tl.constexpr):
    i = tl.arange(0, N)
    words = tl.load((x + i * step).to(tl.pointer_type(tl.int16)), mask=i < n, other=0)
    tl.store(out + i, words)


@triton.jit
def _scales_after_values(page, out, head_dim, N: tl.constexpr):
    i = tl.arange(0, N)
    scales = (page + N * head_dim).to(tl.pointer_type(tl.float32))
    tl.store(out + i, tl.load(scales + i))


@triton.jit
def _doubles(x, out):
    p = tl.program_id(0)
    tl.store(out + p, tl.load((x + p).to(tl.pointer_type(tl.float64))))


def test_misaligned_atomics() -> None:
    out = torch.zeros(16, dtype=torch.uint8)
    with Lockstep() as machine:
        _atomic_word[(1,)](out, 8)
        assert machine.drain() == []
        _atomic_word[(1,)](out, 3)
        assert _only(machine, "misaligned").byte_offset == 3


def test_misaligned_lanes_count_where_the_mask_holds() -> None:
    x, out = torch.zeros(32, dtype=torch.uint8), torch.zeros(8, dtype=torch.int16)
    with Lockstep() as machine:
        _masked_words[(1,)](x, out, 2, 8, 8)
        _masked_words[(1,)](x, out, 3, 1, 8)
        assert machine.drain() == []
        _masked_words[(1,)](x, out, 3, 5, 8)
        assert _only(machine, "misaligned").lane == (1,)


def test_scales_after_values_of_an_odd_size() -> None:
    page, out = torch.zeros(200, dtype=torch.uint8), torch.zeros(4)
    with Lockstep() as machine:
        _scales_after_values[(1,)](page, out, 16, 4)
        _scales_after_values[(1,)](page[4:], out, 17, 4)
        assert machine.drain() == []
        _scales_after_values[(1,)](page[2:], out, 17, 4)
        assert _only(machine, "misaligned").byte_offset == 68


def test_wide_elements_at_every_narrow_one() -> None:
    x, out = torch.zeros(8), torch.zeros(4, dtype=torch.float64)
    with Lockstep() as machine:
        _doubles[(4,)](x, out)
        found = _only(machine, "misaligned")
    assert (found.program, found.lane, found.byte_offset) == ((1, 0, 0), (), 4)


def test_switched_off_it_still_protects_the_process() -> None:
    x, out = torch.randn(8), torch.zeros(1)
    with Lockstep(checkers=["races"]) as machine:
        _load_at[(1,)](x, torch.tensor([1 << 50]), out)
        _store_at[(1,)](out, torch.tensor([-(1 << 50)]))
    assert machine.drain() == []


def test_an_unknown_checker_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown checkers"):
        Lockstep(checkers=["spelling"])


@triton.jit
def _same_address_everywhere(x, lengths, out, N: tl.constexpr):
    lanes = tl.arange(0, N)
    mask = lanes < tl.load(lengths + tl.program_id(0))
    tl.store(out + tl.program_id(0) * N + lanes, tl.load(x + lanes, mask=mask, other=0.0))


def test_a_load_that_is_the_same_in_all_programs_fails_under_masks_that_differ_but_are_all_true():
    out = torch.zeros(16)
    with Lockstep() as machine:
        _same_address_everywhere[(2,)](torch.ones(4), torch.tensor([8, 9], dtype=torch.int32), out, N=8)
    assert [v.kind for v in machine.violations] == ["out-of-bounds"]
    assert out.view(2, 8)[:, :4].eq(1).all()


@triton.jit
def _a_row_of_each_program(x, out, N: tl.constexpr):
    lanes = tl.arange(0, N)
    row = tl.load(x + tl.program_id(0) * 100 + lanes, mask=lanes < N - 3, other=0.0)
    tl.store(out + tl.program_id(0) * N + lanes, row)


def test_a_load_fails_in_some_programs_under_a_mask_that_all_share():
    out = torch.zeros(24)
    with Lockstep() as machine:
        _a_row_of_each_program[(3,)](torch.ones(150), out, N=8)
    assert [v.kind for v in machine.violations] == ["out-of-bounds"]
    assert out.view(3, 8)[:2].sum(1).tolist() == [5, 5]
    assert out.view(3, 8)[2, :5].isnan().all()
    assert out.view(3, 8)[:, 5:].eq(0).all()
