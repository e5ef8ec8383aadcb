"""What is done once for an operation on operands of certain types, and what each time."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep
from indexfuzz.lockstep.language import flow
from indexfuzz.lockstep.operations import reductions
from indexfuzz.lockstep.operations.builder import Builder
from indexfuzz.lockstep.values.dtypes import I32
from indexfuzz.lockstep.values.value import Value


@triton.jit
def _scale(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i, mask=i < 5, other=0.25) * 1.5)


def test_constants_are_converted_when_an_operation_is_recorded_and_not_again(monkeypatch: pytest.MonkeyPatch) -> None:
    x, outs, spread = torch.arange(8.0), torch.zeros(2, 8), []
    with Lockstep():
        _scale[(1,)](x, outs[0], 8)
        plain = Builder.create_splat
        monkeypatch.setattr(Builder, "create_splat", lambda b, ty, a: (spread.append(a.ty.kind), plain(b, ty, a))[1])
        _scale[(1,)](x, outs[1], 8)
    assert spread == ["pointer", "pointer"]
    assert outs[1].tolist() == [0.0, 1.5, 3.0, 4.5, 6.0, 0.375, 0.375, 0.375]
    assert torch.equal(*outs)


@triton.jit
def _put(out, place, value=3, more=4):
    tl.store(out + place, value * 10 + more)


@triton.jit
def _puts(out, first, second=2):
    _put(out, 0)
    _put(out, 1, first)
    _put(out, 2, more=second, value=first)
    _put(place=3, out=out, more=second)


def test_arguments_are_given_by_position_and_by_name() -> None:
    out = torch.zeros(3, 4, dtype=torch.int32)
    with Lockstep():
        _puts[(1,)](out[0], 5)
        _puts[(1,)](out[1], second=7, first=5)
        _puts[(1,)](first=6, out=out[2])
    assert out.tolist() == [[34, 54, 52, 32], [34, 54, 57, 37], [34, 64, 62, 32]]


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {"first": 1}), ((1,), {"first": 1}), ((), {}), ((1, 2, 3), {}), ((1,), {"out": None})]
)
def test_arguments_that_do_not_fit_are_a_type_error(args: tuple[int, ...], kwargs: dict[str, int | None]) -> None:
    out = () if kwargs == {"first": 1} and not args else (torch.zeros(4, dtype=torch.int32),)
    with Lockstep(), pytest.raises(TypeError):
        _puts[(1,)](*out, *args, **kwargs)


@triton.jit
def _sum(x, out, N: tl.constexpr):
    row = tl.program_id(0)
    tl.store(out + row, tl.sum(tl.load(x + row * N + tl.arange(0, N)), 0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_sum_done_at_once_has_the_bits_of_the_one_done_step_by_step(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(5)).mul(1e4).to(dtype)
    chosen = torch.rand(x.shape, generator=torch.Generator().manual_seed(6))
    for value, share in ((-0.0, 0.3), (float("nan"), 0.05), (-float("inf"), 0.04), (float("inf"), 0.02)):
        x[8:][(chosen < share)[8:]] = value
    x[5] = -0.0
    outs = torch.zeros(2, 64, dtype=dtype)
    with Lockstep():
        _sum[(64,)](x, outs[0], 32)
        monkeypatch.setattr(reductions, "_ADDED", ())
        _sum[(64,)](x, outs[1], 32)
    assert outs.isnan().any()
    assert torch.equal(*outs.view(torch.uint8))


@pytest.mark.parametrize(
    ("data", "step"),
    [
        ([[0, 4, 8, 12]], 4),
        ([[0, 4, 8, 12], [3, 7, 11, 15]], 4),
        ([[0, 4, 8, 13]], None),
        ([[0, 4, 8, 12], [0, 5, 10, 15]], None),
        ([[2**31 - 2, 2**31 - 1, -(2**31), 1 - 2**31]], None),
        ([[7]], 0),
    ],
)
def test_the_step_of_few_lanes_is_found(data: list[list[int]], step: int | None) -> None:
    assert Value(np.array(data, np.int32), I32, (len(data[0]),)).advance == step


@pytest.mark.parametrize(
    ("first", "last", "step", "trips"),
    [
        (0, 7, 2, 4),
        (0, 8, 2, 4),
        (3, 3, 1, 0),
        (5, 2, 1, 0),
        (5, -2, -3, 3),
        (-1, 5, -1, 0),
        (0, 2**62, 2**61, 2),
        (-(2**63), -(2**63) + 1, 1, 1),
    ],
)
def test_a_loop_runs_as_often_in_one_program_as_in_several(first: int, last: int, step: int, trips: int) -> None:
    for programs in (1, 3):
        bounds = [np.full(programs, bound) for bound in (first, last, step)]
        assert flow._count_trips(*bounds).tolist() == [trips] * programs
