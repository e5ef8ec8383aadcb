"""Addresses of which only what is needed has memory: pages of a file stand for those of a GPU here."""

import ctypes
import mmap
import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice

import pytest
import torch

from indexfuzz.core.case import FAR
from indexfuzz.devices import expanse
from indexfuzz.devices.carrying import AROUND, Carrier, CarryingSession
from indexfuzz.devices.expanse import KEPT, PART, Expanse
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.generation.sessions import sessions
from indexfuzz.generation.stream import stream_from
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults import plant
from indexfuzz.lockstep import Lockstep
from indexfuzz.lockstep.values.unreserved import unreserved
from indexfuzz.oracles.sessions import run

FIXED, NO_ACCESS, NO_RESERVE = 0x10, 0, 0x4000


class FileMapper:
    """Addresses of this process, and a file that has the pieces of memory one behind the other."""

    def __init__(self):
        self.file, self.pieces, self.mapped = os.memfd_create("pieces"), 0, {}
        self._mmap = ctypes.CDLL(None, use_errno=True).mmap
        self._mmap.restype = ctypes.c_void_p

    def _put(self, address, size, access, flags, file, offset):
        arguments = map(ctypes.c_size_t, (address, size))
        at = self._mmap(*arguments, access, flags, file, ctypes.c_long(offset))
        assert at not in (None, ctypes.c_size_t(-1).value), os.strerror(ctypes.get_errno())
        return at

    def reserve(self, size):
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
        self.address, self.size = self._put(0, size, NO_ACCESS, flags, -1, 0), size

    def tensor(self):
        return torch.frombuffer((ctypes.c_ubyte * self.size).from_address(self.address), dtype=torch.uint8)

    def create(self):
        self.pieces += 1
        os.ftruncate(self.file, self.pieces * PART)
        return self.pieces - 1

    def map(self, first, pieces):
        for number, piece in enumerate(pieces):
            assert first + number * PART not in self.mapped
            self.mapped[first + number * PART] = piece
            access, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | FIXED
            self._put(self.address + first + number * PART, PART, access, flags, self.file, piece * PART)

    def unmap(self, first):
        del self.mapped[first]
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE | FIXED
        self._put(self.address + first, PART, NO_ACCESS, flags, -1, 0)

    def close(self):
        ctypes.CDLL(None).munmap(ctypes.c_size_t(self.address), ctypes.c_size_t(self.size))
        os.close(self.file)


@pytest.fixture
def mapper():
    made = FileMapper()
    yield made
    made.close()


@pytest.fixture
def carrier(mapper):
    return Carrier("cpu", lambda: Expanse(mapper))


def far_rows(count, width, stride, start=AROUND):
    """Rows of their numbers, so many bytes apart, and all of the storage."""
    storage = torch.frombuffer(unreserved((count - 1) * stride + width + 2 * start), dtype=torch.uint8)
    rows = storage.as_strided((count, width), (stride, 1), start)
    rows.copy_(torch.arange(count, dtype=torch.uint8).unsqueeze(1))
    return rows, storage


def test_rows_have_memory_of_their_own_and_come_back(carrier, mapper):
    rows, _ = far_rows(5, 40, 3 * PART + 123)
    there = carrier.bring({"rows": rows})["rows"]
    assert torch.equal(there, rows)
    assert there.stride() == rows.stride()
    there += 10
    back = carrier.take_back({"rows": there})["rows"]
    assert back.data_ptr() == rows.data_ptr()
    assert rows[:, 7].tolist() == [10, 11, 12, 13, 14]
    assert mapper.pieces == 1 + 5


def test_a_row_across_the_end_of_a_part_has_both(carrier, mapper):
    rows, _ = far_rows(2, 80, 4 * PART, start=PART - 40)
    assert torch.equal(carrier.bring({"rows": rows})["rows"], rows)
    assert mapper.pieces == 1 + 4


def test_a_write_beside_a_row_is_seen_and_one_between_rows_harms_nobody(carrier):
    rows, storage = far_rows(3, 40, 4 * PART)
    there = carrier.bring({"rows": rows})["rows"]
    first = there.storage_offset()
    there.as_strided((1,), (1,), first - 1).fill_(7)
    there.as_strided((PART,), (1,), first + 2 * PART).fill_(9)
    assert torch.equal(there, rows)
    carrier.take_back({})
    assert storage[AROUND - 1] == 7
    assert not storage[AROUND + 2 * PART : AROUND + 2 * PART + 8].any()
    assert rows[:, 0].tolist() == [0, 1, 2]


def test_two_storages_lie_apart_and_outputs_are_views_of_their_own(carrier):
    (rows, _), (others, _) = far_rows(3, 40, 4 * PART), far_rows(2, 40, 5 * PART)
    there = carrier.bring({"rows": rows, "others": others.view(torch.int16), "near": torch.ones(3)})
    there["others"].fill_(-1)
    back = carrier.take_back({"last": there["rows"][2], "other": there["others"][1], "near": there["near"]})
    assert back["last"].data_ptr() == rows[2].data_ptr()
    assert back["other"].data_ptr() == others[1].data_ptr()
    assert others.eq(255).all()
    assert rows[:, 0].tolist() == [0, 1, 2]
    assert torch.equal(back["near"], torch.ones(3))


def test_memory_is_used_again(carrier, mapper):
    for stride in range(2, 12):
        rows, _ = far_rows(9, 40, stride * PART)
        assert torch.equal(carrier.bring({"rows": rows})["rows"], rows)
        carrier.take_back({})
    assert KEPT // 2 < mapper.pieces <= 1 + KEPT
    assert sorted(mapper.mapped.values())[-KEPT:] == list(range(1, 1 + KEPT))


def test_a_launch_that_needs_much_has_it(carrier, mapper):
    rows, _ = far_rows(2 * KEPT, 40, 2 * PART)
    assert torch.equal(carrier.bring({"rows": rows})["rows"], rows)
    assert mapper.pieces == 1 + 2 * KEPT


def test_what_spans_more_than_there_is_has_no_room(mapper, monkeypatch):
    monkeypatch.setattr(expanse, "SPAN", 8 * PART)
    addresses = Expanse(mapper)
    assert addresses.take(5 * PART)[1] == 0
    assert addresses.take(2 * PART - 1)[1] == 5 * PART
    with pytest.raises(torch.OutOfMemoryError, match="a launch span more than"):
        addresses.take(2 * PART)
    addresses.clear()
    assert addresses.take(8 * PART)[1] == 0


@dataclass(frozen=True)
class Elsewhere(LockstepDevice):
    """Lockstep on memory of a carrier."""

    carrier: Carrier | None = None

    @contextmanager
    def session(self):
        with Lockstep():
            yield CarryingSession(partial(LockstepDevice.guarantees, self), self.carrier)


def is_far(case):
    return case.cache.page_pad > FAR or case.memory.far == "state"


def blamed(case, implementation, device):
    return {finding.stage for finding in run(case, implementation, device).findings}


def test_far_sessions_blame_who_is_blamed_where_nothing_is_carried(carrier):
    there, here, wrong = Elsewhere(carrier=carrier), LockstepDevice(), plant(("offset-int32-values",))
    found = set()
    for case in islice(filter(is_far, stream_from(sessions(formats=here.formats), 5)), 6):
        assert blamed(case, builtin(), there) == set()
        assert blamed(case, wrong, there) == blamed(case, wrong, here)
        found |= blamed(case, wrong, here)
    assert found
