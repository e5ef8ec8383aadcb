"""Two programs of a launch at one address: different bytes stored, or one loads what the other stores."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Final

import numpy as np

from indexfuzz.lockstep.checkers.disjoint import is_stored_once, lie_apart
from indexfuzz.lockstep.tracking.access import Access
from indexfuzz.lockstep.tracking.run import Launch
from indexfuzz.lockstep.tracking.sites import current_site
from indexfuzz.lockstep.tracking.violations import Violation
from indexfuzz.lockstep.values.arrays import Array, Mask

_MANY: Final = -1
_DENSE: Final = 1 << 24
"""Spans up to this many elements get one map; its untouched pages cost nothing."""


_EXPANDED: Final = 1 << 20
"""Accesses that all programs make alike are written out for each of them up to this many lanes."""


@dataclass(slots=True)
class _Touch:
    """The elements of one access: index of the element, program + 1 (or _MANY for all of them), value."""

    access: Access
    index: Array
    offsets: Array
    program: Array
    values: Array | None


def check_races(launch: Launch) -> None:
    """Report races among the accesses of a launch's completed runs."""
    grouped: dict[int, list[Access]] = defaultdict(list)
    for access in launch.accesses:
        grouped[id(access.allocation)].append(access)
    for accesses in grouped.values():
        stores = [a for a in accesses if a.kind == "store"]
        if stores and launch.total > 1 and not lie_apart(launch, accesses):
            loads = [a for a in accesses if a.kind == "load"]
            if not is_stored_once(stores, loads):
                _check(launch, stores, loads)


def _check(launch: Launch, stores: list[Access], loads: list[Access]) -> None:
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
    _compare(launch, writes, reads, span)


def _compare(launch: Launch, writes: list[_Touch], reads: list[_Touch], span: int) -> None:
    index = np.concatenate([w.index for w in writes])
    program = np.concatenate([w.program for w in writes])
    writer = _writers(span)
    number = np.arange(1, index.shape[0] + 1, dtype=np.int32)
    try:
        writer[index] = number
        repeated = writer[index] != number
        again = np.zeros(0, np.int64)
        if repeated.any():
            writer[index[repeated]] = _MANY
            again = np.flatnonzero(writer[index] == _MANY)
            _check_stores(launch, writes, again, index[again], program[again])
        released = any(w.access.released for w in writes)
        for read in reads:
            if released and read.access.epoch:
                continue
            by = writer[read.index]
            other = program[np.maximum(by, 1) - 1] != read.program
            bad = (by > 0) & other
            doubtful = by == _MANY
            if doubtful.any():
                bad |= doubtful & ~_reads_its_own(launch, read, writes, again, index[again], program[again])
            if bad.any():
                at = int(np.argmax(bad))
                stored = again[index[again] == read.index[at]] if by[at] == _MANY else by[at : at + 1] - 1
                others = stored[program[stored] != read.program[at]]
                other = int((others if others.size else stored)[0])
                who = _name_store(launch, writes, other, int(program[other]))
                _report(launch, read, bad, f"a program loads what {who} stores in")
    finally:
        writer[index] = 0


def _name_store(launch: Launch, writes: list[_Touch], element: int, program: int) -> str:
    """Who stores one of the elements of all stores, and on which line."""
    starts = np.cumsum([w.index.shape[0] for w in writes])
    site = writes[int(np.searchsorted(starts, element, side="right"))].access.site or current_site()
    who = "every program" if program == _MANY else f"program {launch.coordinates(program - 1)}"
    return f"{who} on line {site.line}"


def _reads_its_own(
    launch: Launch, read: _Touch, writes: list[_Touch], again: Array, index: Array, program: Array
) -> Mask:
    """Which elements that are stored more than once a program loads after its own store, or is alone to store.

    Programs that agree about what they store do not agree about what they loaded before.
    """
    scale = launch.total + 2
    stored, loaded = index * scale + program, read.index * scale + read.program
    place = (np.unique(stored) + 1) // scale
    several = [place[1:][place[1:] == place[:-1]], index[program == _MANY]]
    number = {id(access): n for n, access in enumerate(launch.accesses)}
    is_earlier = np.repeat(
        [number[id(w.access)] < number[id(read.access)] for w in writes], [w.index.shape[0] for w in writes]
    )[again]
    alone = np.isin(loaded, stored) & ~np.isin(read.index, np.concatenate(several))
    found: Mask = alone | np.isin(loaded, stored[is_earlier])
    return found


def _check_stores(launch: Launch, writes: list[_Touch], again: Array, index: Array, program: Array) -> None:
    """Stores at addresses that occur more than once: no race as long as the programs agree about the bytes."""
    starts = np.cumsum([0, *(w.index.shape[0] for w in writes)])
    value = np.concatenate([w.values for w in writes if w.values is not None])[again]
    ordered = np.repeat([w.access.released or w.access.epoch > 0 for w in writes], np.diff(starts))[again]
    order = np.argsort(index, kind="stable")
    index, program, value, ordered = index[order], program[order], value[order], ordered[order]
    heads = np.flatnonzero(np.concatenate([[True], index[1:] != index[:-1]]))
    group = np.cumsum(np.concatenate([[0], index[1:] != index[:-1]]))
    differs = value != value[heads][group]
    # The first of a group stands for it; one that disagrees with it but has its program may disagree with a third.
    mixed = np.minimum.reduceat(program, heads) != np.maximum.reduceat(program, heads)
    mixed |= np.minimum.reduceat(program, heads) == _MANY
    racy = differs & mixed[group] & ~np.logical_and.reduceat(ordered, heads)[group]
    if racy.any():
        others = racy & (program != program[heads][group])
        lane = int(again[order[int(np.argmax(others if others.any() else racy))]])
        which = int(np.searchsorted(starts, lane, side="right")) - 1
        bad = np.zeros(writes[which].index.shape, np.bool_)
        bad[lane - int(starts[which])] = True
        _report(launch, writes[which], bad, "two programs store different values to one address of")


_SCRATCH: Final[dict[str, Array]] = {}


def _writers(span: int) -> Array:
    """A map of `span` zeros; whoever writes to it leaves zeros behind, so that it need not be made anew."""
    found = _SCRATCH.get("writers")
    if found is None or found.shape[0] < span:
        found = _SCRATCH["writers"] = np.zeros(max(span, 1 << 16), np.int32)
    return found


def _touch(access: Access, unit: int, first: int) -> _Touch:
    offsets = access.offsets.ravel()
    values = None if access.values is None else access.values.ravel()
    rows = access.offsets.shape[0] if access.everywhere else access.lanes.shape[0]
    count = access.programs.shape[0]
    if rows == count:
        program = access.programs[access.rows()] + 1
    elif offsets.size * count <= _EXPANDED:
        program = np.repeat(access.programs + 1, offsets.size)
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


def _report(launch: Launch, touch: _Touch, bad: Mask, what: str) -> None:
    place = int(np.argmax(bad))
    program = int(touch.program[place])
    access, pointer = touch.access, touch.access.pointer
    who = None if program == _MANY else launch.coordinates(program - 1)
    byte = int(touch.offsets[place]) - pointer.base
    site = access.site or current_site()
    message = f"{what} {pointer.argument}"
    where = launch.name, site.file, site.line, pointer.argument
    launch.record(Violation("race", *where, who, None, byte, message, pointer.address))
