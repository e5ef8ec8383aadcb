"""Launches on copies of their tensors elsewhere: the CPU stands for the GPU here."""

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice

import pytest
import torch

from indexfuzz.devices import carrying
from indexfuzz.devices.carrying import AROUND, MOST_CARRIED, Carrier, CarryingSession
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.generation.stream import stream_cases
from indexfuzz.implementations import load
from indexfuzz.implementations.faults import plant
from indexfuzz.lockstep import Lockstep
from indexfuzz.subjects.in_process import InProcess

CASES = 12


@dataclass(frozen=True)
class Elsewhere(LockstepDevice):
    """Lockstep on memory of a carrier."""

    @contextmanager
    def session(self):
        with Lockstep():
            yield CarryingSession(partial(LockstepDevice.guarantees, self), Carrier("cpu"))


def shown(implementation, device):
    """What the first cases of a stream show."""
    subject = InProcess(implementation, device)
    cases = [subject.narrow(case) for case in islice(stream_cases(7, subject.facts.formats), CASES)]
    return [(finding.signature, finding.detail) for case in cases for finding in subject.run(case).findings]


def test_clean_kernels_show_nothing():
    assert shown(load("builtin"), Elsewhere()) == []


@pytest.mark.parametrize("fault", ["relu-after-sum", "scale-not-ue8m0"])
def test_a_planted_bug_shows_as_it_does_where_nothing_is_carried(fault):
    found = shown(plant((fault,)), Elsewhere())
    assert found
    assert found == shown(plant((fault,)), LockstepDevice())


@pytest.fixture
def carrier():
    return Carrier("cpu")


def test_tensors_of_one_storage_share_one_there(carrier):
    storage = torch.arange(64, dtype=torch.int32)
    there = carrier.bring({"even": storage[::2], "tail": storage[60:], "other": torch.zeros(3)})
    assert torch.equal(there["even"], storage[::2])
    assert there["even"].stride() == (2,)
    there["even"].fill_(-1)
    assert there["tail"].tolist() == [-1, 61, -1, 63]
    assert storage.tolist() == list(range(64))
    carrier.take_back({})
    assert storage[:4].tolist() == [-1, 1, -1, 3]


def test_what_is_written_around_a_tensor_comes_back(carrier):
    storage = torch.zeros(100, dtype=torch.uint8)
    there = carrier.bring({"inside": storage[10:20]})
    there["inside"].as_strided((1,), (1,), there["inside"].storage_offset() - 1).fill_(7)
    carrier.take_back({})
    assert storage[9] == 7


def test_an_output_is_a_view_of_what_it_is_a_view_of_there(carrier):
    argument, first = torch.zeros(4, 8), torch.zeros(128, dtype=torch.uint8)
    there = carrier.bring({"first": first, "argument": argument})
    made = torch.arange(12.0).view(3, 4).t()
    back = carrier.take_back({"column": there["argument"][:, 3], "made": made, "empty": there["argument"][4:]})
    assert back["column"].data_ptr() == argument[:, 3].data_ptr()
    assert back["column"].stride() == (8,)
    assert torch.equal(back["made"], made)
    assert back["made"].stride() == made.stride()
    assert back["empty"].shape == (0, 8)


def test_addresses_are_aligned_as_they_were(carrier):
    tensors = {"odd": torch.zeros(100, dtype=torch.uint8)[3:], "even": torch.zeros(100, dtype=torch.uint8)[16:]}
    there = carrier.bring(tensors)
    for name, tensor in tensors.items():
        assert there[name].data_ptr() % 16 == tensor.data_ptr() % 16


def test_of_a_far_storage_rows_are_carried_and_what_lies_around_each(carrier):
    stride = MOST_CARRIED
    storage = torch.empty(3 * stride, dtype=torch.uint8)
    rows = storage.as_strided((3, 40), (stride, 1), 1000)
    rows.copy_(torch.arange(120, dtype=torch.uint8).view(3, 40))
    around = storage.as_strided((3, 40 + 2 * AROUND), (stride, 1), 1000 - AROUND)
    around[:, :AROUND] = around[:, -AROUND:] = 9
    there = carrier.bring({"rows": rows.view(torch.int16)})["rows"]
    assert torch.equal(there.view(torch.uint8), rows)
    assert there.stride() == (stride // 2, 1)
    there[1].as_strided((1,), (1,), there[1].storage_offset() - 1).fill_(-1)
    there[2, 3] = -1
    back = carrier.take_back({"last": there[2]})
    assert back["last"].data_ptr() == rows[2].data_ptr()
    assert rows[2, :10].tolist() == [80, 81, 82, 83, 84, 85, 255, 255, 88, 89]
    assert around[:, AROUND - 3 : AROUND].tolist() == [[9, 9, 9], [9, 255, 255], [9, 9, 9]]


def test_what_lives_elsewhere_stays_there(carrier):
    meta = torch.empty(3, device="meta")
    assert carrier.bring({"x": meta})["x"] is meta
    assert carrier.take_back({"x": meta})["x"] is meta


class Full(Carrier):
    """A carrier to a device that has no room at first, as other processes have taken it."""

    def __init__(self, times):
        super().__init__("cpu")
        self.times, self.kept = times, []

    def _bring(self, tensors):
        there = super()._bring(tensors)
        self.kept.append(len(self._parts))
        if len(self.kept) <= self.times:
            raise torch.OutOfMemoryError
        return there


def test_a_launch_waits_for_room_and_keeps_nothing_meanwhile(monkeypatch):
    waits, carrier = [], Full(3)
    monkeypatch.setattr(carrying.time, "sleep", lambda seconds: waits.append((seconds, len(carrier._parts))))
    assert torch.equal(carrier.bring({"x": torch.ones(3)})["x"], torch.ones(3))
    assert waits == [(carrying.PAUSE, 0)] * 3


def test_no_room_at_all_is_an_error(monkeypatch):
    monkeypatch.setattr(carrying.time, "sleep", lambda _: None)
    carrier = Full(carrying.TRIES)
    with pytest.raises(torch.OutOfMemoryError):
        carrier.bring({"x": torch.ones(3)})
    assert len(carrier.kept) == carrying.TRIES
