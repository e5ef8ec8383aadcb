"""Find the program and the lane that did something, among the moments that a recorder kept."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from indexfuzz.lockstep.source.lanes import Lane
from indexfuzz.lockstep.tracking.access import Access
from indexfuzz.lockstep.tracking.moments import Moment, Recorder
from indexfuzz.lockstep.values.arrays import Array, Mask


class Doing(NamedTuple):
    """A moment, and which program, by its number in the launch, and lane of it is meant."""

    moment: Moment
    program: int
    lane: Lane


def find_violation(recorder: Recorder, kind: str, argument: str, file: str, line: int) -> Doing | None:
    """Where a line was first reported; of what shows only after the launch, the first store of that line."""
    later: Doing | None = None
    for moment in recorder.moments:
        found = moment.violation
        if found is None:
            is_there = bool(moment.frames) and moment.frames[0].site[:2] == (file, line)
            if is_there and kind in ("race", "order"):
                later = later or Doing(moment, int(moment.programs[0]), (0,) * len(moment.pointer.shape))
        elif (found.kind, found.argument or "", found.file, found.line) == (kind, argument, file, line):
            x, y, z = found.program or (0, 0, 0)
            return Doing(moment, x + moment.grid[0] * (y + moment.grid[1] * z), found.lane or ())
    return later


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


def has_stored(doing: Doing) -> bool:
    """Whether it is a store whose mask was true in its lane."""
    moment, access = doing.moment, doing.moment.access
    if access is None or access.kind == "load":
        return False
    _, lanes = _spread(moment, access)
    return bool(lanes[(moment.row_of(doing.program), *doing.lane)])


def find_stray(recorder: Recorder, storage: int, first: int, expected: Mask) -> Doing | None:
    """The first store into a storage that was wanted outside of what is `expected`, a flag for each byte from `first`.

    Both are addresses. Stores that were dropped because they are out of bounds count, too.
    """
    for moment, access in reversed(list(_stores(recorder))):
        if access.allocation.address == storage:
            offsets, _ = _spread(moment, access)
            at = offsets + storage - first
            inside = (at >= 0) & (at < expected.shape[0])
            stray = np.broadcast_to(access.wanted, offsets.shape) & ~(inside & expected[np.where(inside, at, 0)])
            if stray.any():
                return _doing(moment, int(np.argmax(stray)), stray.shape)
    return None


def _stores(recorder: Recorder) -> Iterator[tuple[Moment, Access]]:
    """The stores, the last one first."""
    for moment in reversed(recorder.moments):
        if moment.access is not None and moment.access.kind != "load":
            yield moment, moment.access


def _spread(moment: Moment, access: Access) -> tuple[Array, Mask]:
    """Byte offset of every lane of every program, and which of them were stored."""
    stored = True if access.everywhere else access.lanes
    shape = np.broadcast_shapes((len(moment.programs), *moment.pointer.shape), np.shape(stored))
    return np.broadcast_to(moment.pointer.data, shape), np.broadcast_to(stored, shape)


def _doing(moment: Moment, flat: int, shape: tuple[int, ...]) -> Doing:
    row, *lane = (int(i) for i in np.unravel_index(flat, shape))
    return Doing(moment, int(moment.programs[row]), tuple(lane))
