"""Launches that are recalled leave the same bytes as if they had run; nothing is that might have ended otherwise."""

import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep, recall_launches


@triton.jit
def _add(x, out, n, scale, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n, other=0.0) + scale, mask=i < n)


@triton.jit
def _subtract(out, first, second):
    tl.store(out, first - second)


@triton.jit
def _keep(x, out):
    tl.store(out, tl.load(x))


@triton.jit
def _tell_address(x, out):
    tl.store(out, x.to(tl.int64) % 64)


def _launch(x, out, n=8, scale=1.0, block=8, programs=1):
    _add[(programs,)](x, out, n, scale, BLOCK=block)


def test_the_same_launch_is_recalled_wherever_its_output_lies():
    x, first, second = torch.arange(8.0), torch.full((8,), -1.0), torch.full((8,), -1.0)
    with Lockstep() as machine, recall_launches() as recall:
        _launch(x, first)
        _launch(x, second)
    assert recall.recalled == 1
    assert machine.violations == []
    assert torch.equal(first, x + 1)
    assert torch.equal(second, first)


def test_arguments_are_told_apart_by_name_in_whatever_order_a_call_names_them():
    one, other = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    with Lockstep(), recall_launches() as recall:
        _subtract[(1,)](one, first=5, second=3)
        _subtract[(1,)](other, second=5, first=3)
    assert recall.recalled == 0
    assert (int(one), int(other)) == (2, -2)


@pytest.mark.parametrize(
    "other",
    [
        {"x": torch.arange(8.0) + 1},
        {"x": torch.arange(9.0)[:8]},
        {"x": torch.arange(9.0)[1:]},
        {"x": torch.arange(8)},
        {"out": torch.zeros(8)},
        {"n": 7},
        {"scale": 2.0},
        {"scale": 1},
        {"block": 4},
        {"programs": 2},
    ],
)
def test_anything_else_runs(other):
    def given():
        return {"x": torch.arange(8.0), "out": torch.full((8,), -1.0)}

    changed, wanted = given() | other, given() | {name: _copy(value) for name, value in other.items()}
    with Lockstep(), recall_launches() as recall:
        _launch(**given())
        _launch(**changed)
    assert recall.recalled == 0
    with Lockstep():
        _launch(**wanted)
    assert torch.equal(changed["out"], wanted["out"])


def _copy(value):
    return value.clone() if isinstance(value, torch.Tensor) else value


def test_zeros_of_either_sign_are_two_arguments():
    x, outs = torch.full((1,), -0.0), [torch.ones(1), torch.ones(1)]
    with Lockstep(), recall_launches() as recall:
        _launch(x, outs[0], n=1, scale=0.0, block=1)
        _launch(x, outs[1], n=1, scale=-0.0, block=1)
    assert recall.recalled == 0
    assert [bool(torch.signbit(out)) for out in outs] == [False, True]


def test_two_arguments_in_one_storage_are_told_from_two_storages():
    x, apart, together = torch.arange(8.0), torch.arange(8.0), torch.arange(8.0)
    with Lockstep(), recall_launches() as recall:
        _launch(x, apart)
        _launch(together, together)
    assert recall.recalled == 0


def test_what_is_wrong_with_a_launch_is_told_each_time():
    with Lockstep() as machine, recall_launches() as recall:
        for _ in range(2):
            _launch(torch.arange(8.0), torch.zeros(4))
            assert [violation.kind for violation in machine.drain()] == ["out-of-bounds"]
    assert recall.recalled == 0


def test_a_launch_that_read_what_nobody_wrote_is_not_recalled():
    x, out = torch.arange(8.0), torch.zeros(8)
    with recall_launches() as recall:
        with Lockstep() as machine:
            machine.declare("x", x, initialised=False)
            _keep[(1,)](x, out)
            assert machine.violations
        with Lockstep() as machine:
            _keep[(1,)](x, out)
            assert machine.violations == []
    assert recall.recalled == 0


def test_what_ran_on_declared_memory_is_recalled_where_nothing_is_declared_and_not_there():
    x, out = torch.arange(8.0), torch.zeros(8)
    with recall_launches() as recall:
        for initialised in (True, False):
            with Lockstep() as machine:
                machine.declare("x", x, initialised=initialised)
                _keep[(1,)](x, out)
                assert bool(machine.violations) is not initialised
            assert recall.recalled == 0
            out.zero_()
        with Lockstep():
            _keep[(1,)](x, out)
    assert recall.recalled == 1


def test_a_launch_that_asks_for_an_address_is_not_recalled():
    x, out = torch.arange(8.0), torch.zeros(1, dtype=torch.int64)
    with Lockstep(), recall_launches() as recall:
        for _ in range(2):
            _tell_address[(1,)](x, out)
    assert recall.recalled == 0


def test_nothing_is_recalled_after_the_block_or_without_one():
    x, out = torch.arange(8.0), torch.zeros(8)
    with Lockstep():
        with recall_launches() as first:
            _launch(x, out)
        out.zero_()
        with recall_launches() as second:
            _launch(x, out)
    assert (first.recalled, second.recalled) == (0, 0)
