"""Two programs of a launch at one address: different bytes stored, or one loads what the other stores."""

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from indexfuzz.lockstep.values import Array, Mask

if TYPE_CHECKING:
    from indexfuzz.lockstep.access import Access
    from indexfuzz.lockstep.launch import Launch

_MANY: Final = -1
_DENSE: Final = 1 << 24
"""Spans up to this many elements get one map; its untouched pages cost nothing."""


_EXPANDED: Final = 1 << 20
"""Accesses that all programs make alike are written out for each of them up to this many lanes."""


@dataclass(slots=True)
class _Touch:
    """The elements of one access: index of the element, program + 1 (or _MANY for all of them), value."""

    access: "Access"
    index: Array
    offsets: Array
    program: Array
    values: Array | None


def check_launch(launch: "Launch") -> None:
    """Report races among the accesses of a launch's completed runs."""
    grouped: dict[int, list[Access]] = defaultdict(list)
    for access in launch.accesses:
        grouped[id(access.allocation)].append(access)
    for accesses in grouped.values():
        stores = [a for a in accesses if a.kind == "store"]
        if stores and launch.total > 1 and not _apart(launch, accesses):
            _check(launch, stores, [a for a in accesses if a.kind == "load"])


def _apart(launch: "Launch", accesses: list["Access"]) -> bool:
    """Whether every program stays in a range of addresses of its own; cheap, and true for most kernels."""
    low = np.full(launch.total, np.iinfo(np.int64).max)
    high = np.full(launch.total, -1, np.int64)
    for access in accesses:
        offsets = access.offsets
        if access.everywhere:
            if offsets.shape[0] != access.run.count:
                return False
            rows = offsets.reshape(offsets.shape[0], -1)
            programs = access.run.programs
            least, most = rows.min(axis=1), rows.max(axis=1)
        else:
            if access.lanes.shape[0] != access.run.count:
                return False
            owner = access.programs()
            starts = np.flatnonzero(np.concatenate([[True], owner[1:] != owner[:-1]]))
            programs = access.run.programs[owner[starts]]
            least, most = np.minimum.reduceat(offsets, starts), np.maximum.reduceat(offsets, starts)
        low[programs] = np.minimum(low[programs], least)
        high[programs] = np.maximum(high[programs], most + access.size)
    used = high >= 0
    low, high = low[used], high[used]
    order = np.argsort(low)
    return bool((low[order][1:] >= high[order][:-1]).all())


def _check(launch: "Launch", stores: list["Access"], loads: list["Access"]) -> None:
    size = stores[0].size
    same = all(
        a.size == size and not int(np.bitwise_or.reduce(a.offsets, axis=None)) & (size - 1) for a in stores + loads
    )
    unit = size if same else 1
    first = min(int(a.offsets.min()) for a in stores) // unit
    last = max(int(a.offsets.max()) + a.size for a in stores) // unit
    writes = [_touch(a, unit, first) for a in stores]
    reads = [_touch(a, unit, first) for a in loads]
    span = last - first + 1
    if span > _DENSE:
        known = np.unique(np.concatenate([w.index for w in writes]))
        for touch in [*writes, *reads]:
            _compress(touch, known)
        span = known.shape[0]
    else:
        for touch in reads:
            _keep(touch, (touch.index >= 0) & (touch.index < span))
    owner = np.zeros(span, np.int64)
    value = np.zeros(span, writes[0].values.dtype if writes[0].values is not None else np.uint8)
    shared: list[tuple[Array, Array]] = []
    for write in writes:
        _store(launch, write, owner, value, shared)
    for read in reads:
        _load(launch, read, owner, shared, released=any(_released(a) for a in stores))


def _touch(access: "Access", unit: int, first: int) -> _Touch:
    offsets = access.offsets.ravel()
    values = None if access.values is None else access.values.ravel()
    rows = access.offsets.shape[0] if access.everywhere else access.lanes.shape[0]
    count = access.run.count
    if rows == count:
        program = access.run.programs[access.programs()] + 1
    elif offsets.size * count <= _EXPANDED:
        program = np.repeat(access.run.programs + 1, offsets.size)
        offsets = np.tile(offsets, count)
        values = None if values is None else np.tile(values, count)
    else:
        program = np.full(offsets.shape, _MANY)
    if unit != access.size:
        offsets = (offsets[:, None] + np.arange(access.size)).ravel()
        program = np.repeat(program, access.size)
        if values is not None:
            values = np.ascontiguousarray(values).view(np.uint8)
    elif values is not None:
        values = values.view(f"u{unit}")
    return _Touch(access, offsets // unit - first, offsets, program, values)


def _keep(touch: _Touch, kept: Mask) -> None:
    touch.index, touch.offsets, touch.program = touch.index[kept], touch.offsets[kept], touch.program[kept]


def _compress(touch: _Touch, known: Array) -> None:
    place = np.searchsorted(known, touch.index)
    found = known[np.minimum(place, known.shape[0] - 1)] == touch.index
    touch.index = place
    if touch.values is None:
        _keep(touch, found)


def _store(launch: "Launch", write: _Touch, owner: Array, value: Array, shared: list[tuple[Array, Array]]) -> None:
    index, program, values = write.index, write.program, write.values
    if values is None:
        return
    before = owner[index]
    taken = (before != 0) & ((before != program) | (program == _MANY))
    differ = taken & (value[index] != values)
    owner[index] = program
    value[index] = values
    lost = (owner[index] != program) | taken
    differ |= lost & (value[index] != values)
    if lost.any():
        shared.append((index[lost], program[lost]))
        shared.append((index[taken], before[taken]))
        owner[index[lost]] = _MANY
    if differ.any() and not (_released(write.access) and write.access.epoch):
        _report(launch, write, differ, "two programs store different values to one address of")


def _load(launch: "Launch", read: _Touch, owner: Array, shared: list[tuple[Array, Array]], *, released: bool) -> None:
    if released and read.access.epoch:
        return
    writer = owner[read.index]
    bad = (writer != 0) & (writer != read.program)
    doubtful = bad & (writer == _MANY) & (read.program != _MANY)
    if doubtful.any() and shared:
        scale = launch.total + 2
        own = np.concatenate([i * scale + p for i, p in shared])
        bad &= ~(doubtful & np.isin(read.index * scale + read.program, own))
    if bad.any():
        _report(launch, read, bad, "a program loads what another program of the launch stores in")


def _released(access: "Access") -> bool:
    return access.epoch < access.run.atomics


def _report(launch: "Launch", touch: _Touch, bad: Mask, what: str) -> None:
    place = int(np.argmax(bad))
    program = int(touch.program[place])
    launch.report_race(
        touch.access,
        None if program == _MANY else program - 1,
        int(touch.offsets[place]),
        f"{what} {touch.access.pointer.argument}",
    )
