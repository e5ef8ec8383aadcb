"""Hints to the compiler that are not true."""

import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep


@triton.jit
def _multiple(x, start, HINT: tl.constexpr, N: tl.constexpr):
    i = tl.multiple_of(start + tl.arange(0, N), HINT)
    tl.store(x + i, 1.0)


@triton.jit
def _scalar_multiple(x, offset, HINT: tl.constexpr):
    tl.store(x + tl.multiple_of(offset, HINT), 1.0)


@triton.jit
def _contiguous(x, step, HINT: tl.constexpr, N: tl.constexpr):
    i = tl.max_contiguous(tl.arange(0, N) * step, HINT)
    tl.store(x + i, 1.0)


@triton.jit
def _wrapped_around(x, modulus, N: tl.constexpr):
    i = tl.max_contiguous((tl.arange(0, N)) % modulus, N)
    tl.store(x + i, 1.0)


@triton.jit
def _constant(x, group, HINT: tl.constexpr, N: tl.constexpr):
    i = tl.max_constancy(tl.arange(0, N) // group, HINT)
    tl.store(x + tl.arange(0, N), i.to(tl.float32))


@triton.jit
def _two_axes(x, M: tl.constexpr, N: tl.constexpr, STRIDE: tl.constexpr):
    place = tl.arange(0, M)[:, None] * STRIDE + tl.arange(0, N)[None, :]
    tl.store(x + tl.max_contiguous(tl.multiple_of(place, (1, N)), (1, N)), 1.0)


@triton.jit
def _assumes(x, n):
    tl.assume(n % 8 == 0)
    tl.store(x + n, 1.0)


def _kinds(machine: Lockstep) -> list[str]:
    return [v.kind for v in machine.drain()]


@pytest.mark.parametrize(("start", "kinds"), [(0, []), (16, []), (4, ["promise"]), (17, ["promise"])])
def test_multiple_of_a_block(start: int, kinds: list[str]) -> None:
    with Lockstep() as machine:
        _multiple[(1,)](torch.zeros(64), start, 16, 16)
    assert _kinds(machine) == kinds


@pytest.mark.parametrize(("offset", "kinds"), [(0, []), (8, []), (12, ["promise"])])
def test_multiple_of_a_scalar(offset: int, kinds: list[str]) -> None:
    with Lockstep() as machine:
        _scalar_multiple[(1,)](torch.zeros(64), offset, 8)
    assert _kinds(machine) == kinds


def test_max_contiguous() -> None:
    with Lockstep() as machine:
        _contiguous[(1,)](torch.zeros(64), 1, 16, 16)
        assert _kinds(machine) == []
        _contiguous[(1,)](torch.zeros(64), 2, 16, 16)
        assert _kinds(machine) == ["promise"]
        _wrapped_around[(1,)](torch.zeros(64), 16, 16)
        assert _kinds(machine) == []
        _wrapped_around[(1,)](torch.zeros(64), 13, 16)
        assert _kinds(machine) == ["promise"]


def test_max_constancy() -> None:
    with Lockstep() as machine:
        _constant[(1,)](torch.zeros(16), 4, 4, 16)
        _constant[(1,)](torch.zeros(16), 8, 4, 16)
        assert _kinds(machine) == []
        _constant[(1,)](torch.zeros(16), 2, 4, 16)
        (found,) = machine.drain()
    assert (found.kind, found.lane) == ("promise", (2,))


def test_a_promise_for_one_axis() -> None:
    with Lockstep() as machine:
        _two_axes[(1,)](torch.zeros(256), 4, 16, 16)
        _two_axes[(1,)](torch.zeros(256), 4, 16, 32)
        assert _kinds(machine) == []
        _two_axes[(1,)](torch.zeros(256), 4, 16, 17)
    assert _kinds(machine) == ["promise"]


def test_assume() -> None:
    with Lockstep() as machine:
        _assumes[(1,)](torch.zeros(64), 16)
        assert _kinds(machine) == []
        _assumes[(1,)](torch.zeros(64), 17)
        assert _kinds(machine) == ["promise"]


def test_switched_off() -> None:
    with Lockstep(checkers=["bounds"]) as machine:
        _assumes[(1,)](torch.zeros(64), 17)
        _contiguous[(1,)](torch.zeros(64), 2, 16, 16)
    assert _kinds(machine) == []
