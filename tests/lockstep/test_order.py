"""Accesses of one program whose lanes nothing makes wait for each other."""

import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.core.case import Case
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations import load
from indexfuzz.lockstep import ALL_CHECKERS, Lockstep, count_ordered
from indexfuzz.lockstep.checkers import order
from indexfuzz.lockstep.tracking.checks import Checks
from indexfuzz.oracles import differential

CHECKERS = (*ALL_CHECKERS, "order")
N = 64


@triton.jit
def _shift(x, other, N: tl.constexpr):
    lanes = tl.arange(0, N)
    tl.store(x + lanes, tl.load(x + (lanes + 1) % N))


@triton.jit
def _reverse_in_place(x, other, N: tl.constexpr):
    lanes = tl.arange(0, N)
    tl.store(x + N - 1 - lanes, tl.load(x + lanes))


@triton.jit
def _transpose_in_place(x, other, N: tl.constexpr):
    i, j = tl.arange(0, 8)[:, None], tl.arange(0, 8)[None, :]
    tl.store(x + j * 8 + i, tl.load(x + i * 8 + j))


@triton.jit
def _scratch(x, other, N: tl.constexpr):
    lanes = tl.arange(0, N)
    tl.store(x + lanes, lanes.to(tl.float32))
    tl.store(other + lanes, tl.load(x + N - 1 - lanes))


@triton.jit
def _scalar_after_block(x, other, N: tl.constexpr):
    lanes = tl.arange(0, N)
    tl.store(x + lanes, lanes.to(tl.float32))
    tl.store(other, tl.load(x + 3))


@triton.jit
def _stored_twice(x, other, N: tl.constexpr):
    lanes = tl.arange(0, N)
    tl.store(x + lanes, lanes.to(tl.float32))
    tl.store(x + N - 1 - lanes, lanes.to(tl.float32) + 100)


@triton.jit
def _two_pointers(x, other, N: tl.constexpr):
    lanes = tl.arange(0, N // 2)
    tl.store(other + lanes, tl.load(x + lanes))


@triton.jit
def _across_a_loop(x, other, N: tl.constexpr):
    lanes = tl.arange(0, N // 4)
    for step in range(3):
        row = tl.load(x + step * (N // 4) + (lanes ^ 1))
        tl.store(x + (step + 1) * (N // 4) + lanes, row)


@triton.jit
def _second_half_of_bytes(x, other, N: tl.constexpr):
    lanes = tl.arange(0, N)
    tl.store(x + lanes, lanes.to(tl.float32))
    halves = tl.load(x.to(tl.pointer_type(tl.int16)) + lanes)
    tl.store(other + lanes, halves.to(tl.float32))


@triton.jit
def _rope_pairs(x, other, N: tl.constexpr):
    half = tl.arange(0, N // 2)
    even = tl.load(x + 2 * half)
    odd = tl.load(x + 2 * half + 1)
    tl.store(x + half, even - odd)
    tl.store(x + N // 2 + half, even + odd)


PLANTED = [
    (_shift, "stores"),
    (_reverse_in_place, "stores"),
    (_transpose_in_place, "stores"),
    (_scratch, "loads"),
    (_scalar_after_block, "loads"),
    (_stored_twice, "stores"),
    (_two_pointers, "stores"),
    (_across_a_loop, "loads"),
    (_second_half_of_bytes, "loads"),
    (_rope_pairs, "stores"),
]


def run(kernel, checkers=CHECKERS, **options):
    x = torch.arange(2 * N, dtype=torch.float32)
    other = x[1:] if kernel is _two_pointers else torch.zeros(N)
    with Lockstep(checkers=checkers) as machine:
        kernel[(1,)](x, other, N=N, **options)
    return machine.violations


@pytest.mark.parametrize(("kernel", "verb"), PLANTED, ids=lambda p: getattr(getattr(p, "fn", None), "__name__", None))
def test_what_depends_on_the_order_of_lanes_is_found(kernel, verb):
    (found, *_) = run(kernel)
    assert found.kind == "order"
    assert found.message.startswith(verb)
    assert "test_order.py" in found.file
    assert found.byte_offset is not None
    assert run(kernel, ALL_CHECKERS) == []
    assert run(kernel, num_warps=1) == []


@triton.jit
def _in_place(x, other, N: tl.constexpr):
    lanes = tl.arange(0, N)
    tl.store(x + lanes, tl.load(x + lanes) * 2)
    tl.store(x + lanes, tl.load(x + lanes) + 1, mask=lanes < 5)


@triton.jit
def _shift_with_barrier_of_ptx(x, other, N: tl.constexpr):
    lanes = tl.arange(0, N)
    value = tl.load(x + (lanes + 1) % N)
    tl.inline_asm_elementwise("bar.sync 0;", "=r", [], dtype=tl.int32, is_pure=False, pack=1)
    tl.store(x + lanes, value)


@triton.jit
def _shift_with_barrier(x, other, N: tl.constexpr):
    lanes = tl.arange(0, N)
    value = tl.load(x + (lanes + 1) % N)
    tl.debug_barrier()
    tl.store(x + lanes, value)


@triton.jit
def _normalise(x, other, N: tl.constexpr):
    lanes = tl.arange(0, N)
    value = tl.load(x + lanes)
    tl.store(x + (lanes + 1) % N, value / tl.sum(value))


@triton.jit
def _rope_in_place(x, other, N: tl.constexpr):
    half = tl.arange(0, N // 2)
    a, b = tl.load(x + half), tl.load(x + N // 2 + half)
    tl.store(x + half, a - b)
    tl.store(x + N // 2 + half, a + b)


@triton.jit
def _rope_joined(x, other, N: tl.constexpr):
    dim = tl.arange(0, N // 2)[:, None] + tl.arange(0, 2)[None, :] * (N // 2)
    a, b = tl.split(tl.load(x + dim))
    tl.store(x + dim, tl.join(a - b, a + b))


@triton.jit
def _halves_joined(x, other, N: tl.constexpr):
    half = tl.arange(0, N // 2)
    a, b = tl.load(x + half), tl.load(x + N // 2 + half)
    tl.store(x + tl.arange(0, N), tl.reshape(tl.permute(tl.join(a - b, a + b), (1, 0)), (N,)))


@triton.jit
def _same_twice(x, other, N: tl.constexpr):
    lanes = tl.arange(0, N)
    tl.store(x + lanes, lanes * 0.0)
    tl.store(x + N - 1 - lanes, lanes * 0.0)


@triton.jit
def _neighbouring_rows(x, other, N: tl.constexpr):
    lanes = tl.arange(0, N)
    tl.store(x + lanes, tl.load(x + N + (lanes ^ 1)))


CLEAN = (
    _in_place,
    _shift_with_barrier,
    _shift_with_barrier_of_ptx,
    _normalise,
    _rope_in_place,
    _rope_joined,
    _halves_joined,
    _same_twice,
    _neighbouring_rows,
)


@pytest.mark.parametrize("kernel", CLEAN, ids=lambda kernel: kernel.fn.__name__)
def test_what_does_not_is_left_alone(kernel):
    assert run(kernel) == []


def test_programs_are_looked_at_one_by_one():
    x = torch.arange(4 * N, dtype=torch.float32)
    with Lockstep(checkers=("order",)) as machine:
        _by_program[(4,)](x, N=N)
    (found,) = machine.violations
    assert found.program == (2, 0, 0)
    assert found.lane == (0,)


def test_launches_that_were_looked_at_are_counted(monkeypatch):
    x = torch.arange(4 * N, dtype=torch.float32)
    with count_ordered() as ordered, Lockstep(checkers=CHECKERS):
        _by_program[(4,)](x, N=N)
        _by_program[(1,)](x, N=N)
        _by_program[(4,)](x, N=N, num_warps=1)
        _two_pointers[(1,)](x, x, N=N)
        with Lockstep():
            _by_program[(4,)](x, N=N)
        monkeypatch.setattr(order, "_MOST", 2 * 4 * N)
        _by_program[(4,)](x, N=N)
    assert ordered == {"_by_program": 2, "_two_pointers": 1}


@triton.jit
def _by_program(x, N: tl.constexpr):
    lanes = tl.arange(0, N)
    row = x + tl.program_id(0) * N
    turned = tl.where(tl.program_id(0) >= 2, lanes ^ 1, lanes)
    tl.store(row + lanes, tl.load(row + turned))


@pytest.mark.parametrize("mode", ["inplace", "functional"])
@pytest.mark.parametrize("style", ["neox", "interleaved"])
def test_no_kernel_of_ours_depends_on_the_order_of_lanes(style, mode, monkeypatch):
    """`rotate_` reads and writes each element in one lane, whose value waits for what it replaces."""
    looked_at: list[bool] = []
    choose = Checks.of

    def with_order(names):
        looked_at.append(True)
        return choose((*names, "order"))

    monkeypatch.setattr(Checks, "of", with_order)
    case = Case().replace(rope={"style": style, "mode": mode}, batch={"decode": (3, 70), "max_model_len": 80})
    outcome = differential.run(case, load("builtin"), LockstepDevice())
    assert looked_at
    assert outcome.findings == []
