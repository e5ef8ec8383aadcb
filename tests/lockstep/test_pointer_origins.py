"""Blocks of pointers whose lanes point into different tensors."""

import inspect

import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep


@triton.jit
def _where(a, b, out, N: tl.constexpr):
    lanes = tl.arange(0, N)
    chosen = tl.where(lanes % 2 == 0, a + lanes, b + lanes)
    tl.store(out + lanes, tl.load(chosen))


@triton.jit
def _where_by_program(a, b, out, N: tl.constexpr):
    lanes = tl.arange(0, N)
    base = tl.where(tl.program_id(0) == 0, a, b)
    tl.store(out + tl.program_id(0) * N + lanes, tl.load(base + lanes))


@triton.jit
def _join(a, b, out, N: tl.constexpr):
    lanes = tl.arange(0, N)
    joined = tl.join(a + lanes, b + lanes)
    tl.store(out + lanes[:, None] * 2 + tl.arange(0, 2)[None, :], tl.load(joined))


@triton.jit
def _interleave(a, b, out, N: tl.constexpr):
    lanes = tl.arange(0, N)
    tl.store(out + tl.arange(0, 2 * N), tl.load(tl.interleave(a + lanes, b + lanes)))


@triton.jit
def _cat(a, b, out, N: tl.constexpr):
    lanes = tl.arange(0, N)
    tl.store(out + tl.arange(0, 2 * N), tl.load(tl.cat(a + lanes, b + lanes)))


@triton.jit
def _masked(a, b, out, N: tl.constexpr):
    lanes = tl.arange(0, N)
    chosen = tl.where(lanes % 2 == 0, a + lanes, b + lanes)
    tl.store(out + lanes, tl.load(chosen, mask=lanes < 5, other=-1.0))


@triton.jit
def _addresses(a, b, table, out, N: tl.constexpr):
    lanes = tl.arange(0, N)
    base = tl.load(table + tl.program_id(0)).to(tl.pointer_type(tl.float32))
    tl.store(out + tl.program_id(0) * N + lanes, tl.load(base + lanes))


N = 8


def tensors():
    return torch.arange(N, dtype=torch.float32), 100 + torch.arange(N, dtype=torch.float32)


def expected(name, a, b):
    even = torch.arange(N) % 2 == 0
    return {
        "_where": torch.where(even, a, b),
        "_where_by_program": torch.cat([a, b]),
        "_join": torch.stack([a, b], -1).ravel(),
        "_interleave": torch.stack([a, b], -1).ravel(),
        "_cat": torch.cat([a, b]),
        "_masked": torch.where(torch.arange(N) < 5, torch.where(even, a, b), -1.0),
    }[name]


KEEPS_ORDER = "dim" in inspect.signature(tl.cat).parameters
"""Whether tl.cat can be told not to reorder; the one of Triton 3.6 cannot."""


@pytest.mark.parametrize(
    "kernel", [_where, _where_by_program, _join, _interleave, _masked, *([_cat] if KEEPS_ORDER else [])]
)
@pytest.mark.parametrize("swapped", [False, True])
def test_every_lane_reads_its_own_tensor(kernel, swapped):
    a, b = reversed(tensors()) if swapped else tensors()
    right = expected(kernel.fn.__name__, a, b)
    out = torch.full((right.numel(),), -7.0)
    with Lockstep() as machine:
        machine.declare("a", a)
        machine.declare("b", b)
        kernel[(2,) if kernel is _where_by_program else (1,)](a, b, out, N=N)
    assert out.tolist() == right.tolist()
    assert machine.violations == []


def test_addresses_of_several_tensors_become_pointers_into_each():
    a, b = tensors()
    out = torch.zeros(2 * N)
    table = torch.tensor([a.data_ptr(), b.data_ptr()])
    with Lockstep() as machine:
        _addresses[(2,)](a, b, table, out, N=N)
    assert out.tolist() == [*a.tolist(), *b.tolist()]
    assert machine.violations == []


@triton.jit
def _store(a, b, x, N: tl.constexpr):
    lanes = tl.arange(0, N)
    tl.store(tl.where(lanes < 3, a + lanes, b + lanes), tl.load(x + lanes), mask=lanes != 4)


@triton.jit
def _count(a, b, old, N: tl.constexpr):
    lanes = tl.arange(0, N)
    tl.store(old + lanes, tl.atomic_add(tl.where(lanes < 3, a, b) + lanes * 0, 1))


def test_stores_and_atomics_go_to_each_lanes_tensor():
    a, b = torch.zeros(N), torch.zeros(N)
    with Lockstep() as machine:
        _store[(1,)](a, b, torch.arange(1, N + 1).float(), N=N)
    assert a.tolist() == [1, 2, 3, 0, 0, 0, 0, 0]
    assert b.tolist() == [0, 0, 0, 4, 0, 6, 7, 8]
    first, second, old = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32), torch.zeros(N).int()
    with machine:
        _count[(1,)](first, second, old, N=N)
    assert (first.item(), second.item(), old.tolist()) == (3, 5, [0, 1, 2, 0, 1, 2, 3, 4])
    assert machine.violations == []


def test_what_goes_wrong_is_said_of_the_lanes_own_tensor():
    a, b = torch.zeros(N), torch.zeros(N - 1)
    with Lockstep() as machine:
        _where[(1,)](a, b, torch.zeros(N), N=N)
    (found,) = machine.violations
    assert (found.kind, found.argument, found.lane, found.byte_offset) == ("out-of-bounds", "b", (7,), 28)


@triton.jit
def _cat_reordered(a, b, out, N: tl.constexpr):
    lanes = tl.arange(0, N)
    tl.store(out + tl.arange(0, 2 * N), tl.load(tl.cat(a + lanes, b + lanes, can_reorder=True)))


@pytest.mark.filterwarnings("ignore:tl.cat.can_reorder=True. is deprecated")
def test_a_concatenation_that_may_reorder_keeps_each_lanes_tensor():
    a, b = tensors()
    out = torch.zeros(2 * N)
    with Lockstep() as machine:
        _cat_reordered[(1,)](a, b, out, N=N)
    assert out.tolist() == [*a.tolist(), *b.tolist()]
    assert machine.violations == []
