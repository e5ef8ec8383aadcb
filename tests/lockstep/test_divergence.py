"""Programs that take different paths, and the promise that running together changes no bit."""

import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep, launch
from indexfuzz.lockstep.language.helpers import RUNTIME


@triton.jit
def _early_return(x, out, BLOCK: tl.constexpr):
    p = tl.program_id(0)
    kind = tl.load(x + p)
    i = tl.arange(0, BLOCK)
    if kind < 0:
        return
    tl.store(out + p * BLOCK + i, kind.to(tl.float32))
    if kind == 2:
        tl.store(out + p * BLOCK + i, i.to(tl.float32))


def test_early_return_and_nested_conditions() -> None:
    x = torch.tensor([-1, 0, 2, -5, 2, 7, 0, -1])
    out = torch.full((8, 4), -9.0)
    with Lockstep() as machine:
        _early_return[(8,)](x, out, 4)
    expected = torch.full((8, 4), -9.0)
    for row, kind in enumerate(x.tolist()):
        if kind >= 0:
            expected[row] = torch.arange(4) if kind == 2 else float(kind)
    assert torch.equal(out, expected)
    assert machine.violations == []


@triton.jit
def _trips(lengths, x, out, BLOCK: tl.constexpr):
    p = tl.program_id(0)
    n = tl.load(lengths + p)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(p % 2, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        total += tl.load(x + p * 64 + i, mask=i < n, other=0.0)
    left = n
    while left > 3:
        left -= 3
    tl.store(out + p, tl.sum(total, 0) + left)


def test_trip_counts_and_while_loops() -> None:
    lengths = torch.tensor([0, 1, 3, 16, 17, 63, 64, 5], dtype=torch.int32)
    x = torch.randint(-5, 6, (8, 64), generator=torch.Generator().manual_seed(0)).float()
    out = torch.zeros(8)
    with Lockstep() as machine:
        _trips[(8,)](lengths, x, out, 16)
    for p, n in enumerate(lengths.tolist()):
        left = n if n <= 3 else (n - 1) % 3 + 1
        assert out[p] == x[p, p % 2 : n].sum() + left
    assert machine.violations == []


@triton.jit
def _side_effects(flags, counter, log):
    p = tl.program_id(0)
    tl.atomic_add(counter, 1)
    tl.store(log + p, tl.load(log + p) + 1)
    if tl.load(flags + p) > 0:
        tl.atomic_add(counter + 1, 1)
        if p > 5:
            tl.store(log + p, 100)


def test_an_aborted_run_leaves_no_trace() -> None:
    flags = torch.tensor([0, 1, 0, 1, 1, 0, 1, 1], dtype=torch.int32)
    counter, log = torch.zeros(2, dtype=torch.int32), torch.zeros(8, dtype=torch.int32)
    with Lockstep():
        _side_effects[(8,)](flags, counter, log)
    assert counter.tolist() == [8, 5]
    assert log.tolist() == [1, 1, 1, 1, 1, 1, 100, 100]


@triton.jit
def _ternary(x, out):
    p = tl.program_id(0)
    value = tl.load(x + p)
    tl.store(out + p, value * 2 if value > 0 else value - 1)


def test_ternary_on_a_value() -> None:
    x, out = torch.tensor([1.0, -1.0, 3.0]), torch.zeros(3)
    with Lockstep():
        _ternary[(3,)](x, out)
    assert out.tolist() == [2.0, -2.0, 6.0]


@triton.jit
def _softmax(x, lengths, out, BLOCK: tl.constexpr, FIRST):
    p = FIRST + tl.program_id(0)
    i = tl.arange(0, BLOCK)
    n = tl.load(lengths + p)
    row = tl.load(x + p * BLOCK + i, mask=i < n, other=float("-inf")).to(tl.float32)
    top = tl.max(row, 0)
    if n > 20:
        top = top * 0.5
    weights = tl.exp(row - top)
    scaled = weights / tl.sum(weights, 0) + tl.log2(tl.abs(row) + 1.0) * 0.0
    tl.store(out + p * BLOCK + i, tl.where(i < n, scaled, 0.0).to(out.dtype.element_ty))


def test_together_and_alone_give_the_same_bits() -> None:
    generator = torch.Generator().manual_seed(1)
    for dtype in (torch.float32, torch.bfloat16, torch.float8_e4m3fn):
        for rows in (1, 2, 17, 64):
            x = torch.randn(rows, 32, generator=generator).bfloat16()
            lengths = torch.randint(1, 33, (rows,), generator=generator, dtype=torch.int32)
            together, alone = (torch.zeros(rows, 32).to(dtype) for _ in range(2))
            with Lockstep() as machine:
                _softmax[(rows,)](x, lengths, together, 32, 0)
                for row in range(rows):
                    _softmax[(1,)](x, lengths, alone, 32, row)
            assert torch.equal(together.view(torch.uint8), alone.view(torch.uint8))
            assert machine.violations == []


@triton.jit
def _scores(q, k, out, D: tl.constexpr, N: tl.constexpr, FIRST):
    p = FIRST + tl.program_id(0)
    m, n, d = tl.arange(0, 16), tl.arange(0, N), tl.arange(0, D)
    a = tl.load(q + p * 16 * D + m[:, None] * D + d[None, :])
    b = tl.load(k + n[None, :] * D + d[:, None])
    tl.store(out + p * 16 * N + m[:, None] * N + n[None, :], tl.dot(a, b))


@pytest.mark.parametrize("model", ["ieee", "sm90", "cdna3"])
def test_dot_together_and_alone_gives_the_same_bits(model: str) -> None:
    generator = torch.Generator().manual_seed(2)
    q = torch.randn(5, 16, 64, generator=generator).to(torch.float8_e4m3fn)
    k = torch.randn(32, 64, generator=generator).to(torch.float8_e4m3fn)
    together, alone = torch.zeros(5, 16, 32), torch.zeros(5, 16, 32)
    with Lockstep(dot=model):
        _scores[(5,)](q, k, together, 64, 32, 0)
        for p in range(5):
            _scores[(1,)](q, k, alone, 64, 32, p)
    assert torch.equal(together.view(torch.int32), alone.view(torch.int32))


@pytest.mark.parametrize("most", [1, 3, 64])
def test_chunks_of_programs_change_nothing(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    x = torch.randn(20, 32, generator=torch.Generator().manual_seed(3)).bfloat16()
    lengths = torch.full((20,), 32, dtype=torch.int32)
    whole, chunked = torch.zeros(20, 32), torch.zeros(20, 32)
    with Lockstep() as machine:
        _softmax[(20,)](x, lengths, whole, 32, 0)
        monkeypatch.setattr(launch, "MOST_PROGRAMS", most)
        _softmax[(20,)](x, lengths, chunked, 32, 0)
    assert torch.equal(whole, chunked)
    assert machine.violations == []


@triton.jit
def _big_blocks(x, out, M: tl.constexpr, N: tl.constexpr):
    p = tl.program_id(0)
    place = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(out + p * M * N + place, tl.load(x + place) + p)


def test_large_blocks_run_in_smaller_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RUNTIME.builder, "largest", 4096)
    x, out = torch.randn(32, 64), torch.zeros(9, 32, 64)
    with Lockstep() as machine:
        _big_blocks[(9,)](x, out, 32, 64)
    assert torch.equal(out, x + torch.arange(9)[:, None, None])
    assert machine.violations == []


@triton.jit
def _spin_lock(lock, total):
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    tl.store(total, tl.load(total) + 1)
    tl.atomic_xchg(lock, 0)


def test_a_spin_lock_ends_and_its_data_does_not_race() -> None:
    lock, total = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    with Lockstep() as machine:
        _spin_lock[(6,)](lock, total)
    assert total.item() == 6
    assert machine.violations == []


@triton.jit
def _spin(lock, total):
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    tl.store(total, tl.load(total) + 1)
    tl.debug_barrier()
    tl.atomic_xchg(lock, 0)


def test_programs_that_queue_for_a_lock_are_not_all_run_again_for_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    complete = launch._run
    monkeypatch.setattr(launch, "_run", lambda k, v, run: sizes.append(run.count) or complete(k, v, run))
    lock, total = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    with Lockstep() as machine:
        _spin[(256,)](lock, total)
    assert total.item() == 256
    assert machine.violations == []
    assert sum(sizes) < 256 * 12
