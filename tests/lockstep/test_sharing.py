"""Who touches the bytes that the programs of a launch fight for."""

from collections.abc import Callable

import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep
from indexfuzz.lockstep.source.search import Doing
from indexfuzz.lockstep.source.sharing import Sharing, find_sharing
from indexfuzz.lockstep.tracking.moments import Recorder


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


def _shared(launch: Callable[[], object]) -> Sharing | None:
    """What the programs of the last launch fight for in the storage of its last access."""
    recorder = Recorder()
    with Lockstep(recorder=recorder) as machine:
        launch()
        machine.drain()
    moment = recorder.moments[-1]
    return find_sharing(recorder, Doing(moment, 0, ()))


def test_both_programs_of_a_slot_are_named_with_what_they_store():
    found = _shared(lambda: _slots[(5,)](torch.tensor([3, 0, -1, 3, 2]), torch.zeros(10, 8), 8))
    assert found
    assert found.first == 3 * 8 * 4
    assert sorted(set(found.program[found.is_contested].tolist())) == [0, 3]
    assert found.is_contested.sum() == 2 * 8 * 4
    assert [(doing.program, doing.lane) for doing in found.at(found.first)] == [(0, (0,)), (3, (0,))]


def test_who_loads_what_another_program_stores_is_named_after_who_stores():
    found = _shared(lambda: _shift[(4,)](torch.randn(33), 8))
    assert found
    assert found.first == 8 * 4
    stores, loads = found.at(found.first)
    assert (stores.program, stores.lane, loads.program, loads.lane) == (1, (0,), 0, (7,))


@pytest.mark.parametrize("slots", [[3, 0, -1, 7, 2], [3, -1, -1, -1, -1]])
def test_where_each_program_has_its_own_bytes_nothing_is_fought_for(slots: list[int]):
    assert _shared(lambda: _slots[(5,)](torch.tensor(slots), torch.zeros(10, 8), 8)) is None


def test_launches_do_not_fight_with_each_other():
    out = torch.zeros(10, 8)

    def twice() -> None:
        _slots[(2,)](torch.tensor([1, 2]), out, 8)
        _slots[(2,)](torch.tensor([2, 1]), out, 8)

    assert _shared(twice) is None
