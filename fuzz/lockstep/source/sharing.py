"""Who touches the bytes that the programs of a launch fight for, among the moments that a recorder kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from indexfuzz.lockstep.source.search import Doing
from indexfuzz.lockstep.tracking.access import Access
from indexfuzz.lockstep.tracking.moments import Moment, Recorder
from indexfuzz.lockstep.tracking.touched import list_bytes
from indexfuzz.lockstep.values.arrays import Array, Mask


@dataclass(frozen=True)
class Sharing:
    """What a launch did to the storage that a moment is about, byte by byte in the order in which it ran.

    Of each: its offset in the storage, the program by its number in the launch, the lane in row-major order, the
    moment, whether it is stored, and whether another program stores something else in its element or loads it.
    """

    moments: tuple[Moment, ...]
    offset: Array
    program: Array
    lane: Array
    moment: Array
    is_store: Mask
    is_contested: Mask

    @property
    def first(self) -> int:
        """The offset of the first byte that is fought for."""
        return int(self.offset[self.is_contested].min())

    def at(self, offset: int) -> Iterator[Doing]:
        """Who fights for a byte: of each program the last that it does there, stores before loads."""
        here = np.flatnonzero(self.is_contested & (self.offset == offset))
        last = {int(self.program[i]): int(i) for i in here}
        for i in sorted(last.values(), key=lambda i: (not self.is_store[i], i)):
            moment = self.moments[int(self.moment[i])]
            shape = moment.pointer.shape
            lane = tuple(int(at) for at in np.unravel_index(int(self.lane[i]), shape)) if shape else ()
            yield Doing(moment, int(self.program[i]), lane)


def find_sharing(recorder: Recorder, doing: Doing) -> Sharing | None:
    """Who shares the storage that a racing access touches; None where no two programs fight for a byte of it."""
    if doing.moment.access is None:
        return None
    moments = tuple(moment for moment in recorder.moments if _is_beside(moment, doing))
    accesses = [moment.access for moment in moments if moment.access]
    touched = [list_bytes(access, len(access.programs)) for access in accesses]
    offset = np.concatenate([each.offset for each in touched])
    program = np.concatenate([each.access.programs[each.program] for each in touched])
    counts = [len(each.offset) for each in touched]
    value = np.concatenate(
        [np.zeros(len(each.offset), np.uint8) if each.value is None else each.value for each in touched]
    )
    is_store = np.repeat([access.kind == "store" for access in accesses], counts)
    is_ordered = np.repeat([access.released or access.epoch > 0 for access in accesses], counts)
    is_contested = _find_contested(offset, program, value, is_store, is_ordered)
    if not is_contested.any():
        return None
    is_contested = np.concatenate(list(_whole_elements(is_contested, accesses, counts)))
    lane = np.concatenate([each.lane for each in touched])
    number = np.repeat(np.arange(len(moments)), counts)
    return Sharing(moments, offset, program, lane, number, is_store, is_contested)


def _is_beside(moment: Moment, doing: Doing) -> bool:
    """Whether a moment is a load or a store of the same launch in the same storage."""
    own: Access | None = doing.moment.access
    access = moment.access
    return (
        access is not None
        and own is not None
        and access.kind in ("load", "store")
        and moment.tensors is doing.moment.tensors
        and access.allocation is own.allocation
    )


def _whole_elements(is_contested: Mask, accesses: Sequence[Access], counts: Sequence[int]) -> Iterator[Mask]:
    """All bytes of the elements of which one is contested, access by access."""
    for access, own in zip(accesses, np.split(is_contested, np.cumsum(counts)[:-1]), strict=True):
        yield np.repeat(own.reshape(-1, access.size).any(axis=1), access.size)


def _find_contested(offset: Array, program: Array, value: Array, is_store: Mask, is_ordered: Mask) -> Mask:
    """The bytes that two programs store with different values, or that one loads and another one stores.

    Bytes that all programs store in an order made by atomics are left out.
    """
    known, place = np.unique(offset[is_store], return_inverse=True)
    if not known.size:
        return np.zeros(offset.shape, np.bool_)
    stored = _Extent(len(known), place, program[is_store]), _Extent(len(known), place, value[is_store])
    ordered = np.ones(len(known), np.bool_)
    np.logical_and.at(ordered, place, is_ordered[is_store])
    at = np.minimum(np.searchsorted(known, offset), len(known) - 1)
    is_stored = known[at] == offset
    races = (stored[0].differs & stored[1].differs & ~ordered)[at]
    by_another = (stored[0].least[at] != program) | (stored[0].most[at] != program)
    loads = ~is_store & is_stored & by_another & ~is_ordered
    met = np.zeros(len(known), np.bool_)
    met[at[loads]] = True
    found: Mask = is_stored & (races | loads | (is_store & met[at]))
    return found


class _Extent:
    """The least and the greatest number of each group."""

    def __init__(self, groups: int, group: Array, numbers: Array) -> None:
        wide = numbers.astype(np.int64)
        self.least, self.most = np.full(groups, np.iinfo(np.int64).max), np.full(groups, -1)
        np.minimum.at(self.least, group, wide)
        np.maximum.at(self.most, group, wide)

    @property
    def differs(self) -> Mask:
        """The groups whose numbers are not all the same."""
        found: Mask = self.least != self.most
        return found
