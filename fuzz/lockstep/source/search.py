"""Find the program and the lane that did something, among the moments that a recorder kept."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from indexfuzz.lockstep.source.lanes import Lane
from indexfuzz.lockstep.tracking.access import Access
from indexfuzz.lockstep.tracking.moments import Moment, Recorder
from indexfuzz.lockstep.tracking.violations import Violation
from indexfuzz.lockstep.values.arrays import Array, Mask


class Doing(NamedTuple):
    """A moment, and which program, by its number in the launch, and lane of it is meant."""

    moment: Moment
    program: int
    lane: Lane


def find_violation(recorder: Recorder, violation: Violation) -> Doing | None:
    """Where a violation was reported; of one that shows only after the launch, a store of its line by its program."""
    for moment in recorder.moments:
        x, y, _ = moment.grid
        wanted = violation.program
        number = -1 if wanted is None else wanted[0] + x * (wanted[1] + y * wanted[2])
        if moment.violation == violation and number >= 0:
            return Doing(moment, number, violation.lane or ())
        place = moment.frames[0].site[:2] if moment.frames else None
        later = violation.kind in ("race", "order") and moment.access is not None
        if later and place == (violation.file, violation.line) and moment.row_of(number) >= 0:
            return Doing(moment, number, (0,) * len(moment.pointer.shape))
    return None


def find_store(recorder: Recorder, address: int) -> Doing | None:
    """The last store that wrote the byte at an address, else the last that would have, had its mask been true."""
    for masked in (False, True):
        for moment, access in _stores(recorder):
            offset = address - access.allocation.address
            if 0 <= offset < access.allocation.size:
                offsets, lanes = _spread(moment, access)
                hit = (offsets <= offset) & (offset < offsets + access.size) & (masked | lanes)
                if hit.any():
                    return _doing(moment, np.flatnonzero(hit)[-1], hit.shape)
    return None


def find_stray(recorder: Recorder, first: int, expected: Mask) -> Doing | None:
    """The first store that wrote into the bytes from an address on where `expected`, a flag for each, is false."""
    for moment, access in reversed(list(_stores(recorder))):
        offsets, lanes = _spread(moment, access)
        at = offsets + access.allocation.address - first
        inside = (at >= 0) & (at < expected.shape[0]) & lanes
        stray = inside & ~expected[np.where(inside, at, 0)]
        if stray.any():
            return _doing(moment, int(np.argmax(stray)), stray.shape)
    return None


def _stores(recorder: Recorder) -> Iterator[tuple[Moment, Access]]:
    """The stores, the last one first."""
    for moment in reversed(recorder.moments):
        if moment.access is not None:
            yield moment, moment.access


def _spread(moment: Moment, access: Access) -> tuple[Array, Mask]:
    """Byte offset of every lane of every program, and which of them were stored."""
    stored = True if access.everywhere else access.lanes
    shape = np.broadcast_shapes((len(moment.programs), *moment.pointer.shape), np.shape(stored))
    return np.broadcast_to(moment.pointer.data, shape), np.broadcast_to(stored, shape)


def _doing(moment: Moment, flat: int, shape: tuple[int, ...]) -> Doing:
    row, *lane = (int(i) for i in np.unravel_index(flat, shape))
    return Doing(moment, int(moment.programs[row]), tuple(lane))
