"""Two accesses of one program to the same bytes by different lanes, with nothing between that makes lanes wait.

A program's source has an order, its lanes have none: they are threads of several warps, and Triton puts a barrier where
they exchange values through shared memory, never for the sake of global memory. Whatever may exchange values (a
reduction, scan, dot, gather or histogram, an atomic, `tl.debug_barrier`) counts as a barrier here. Not reported are:

- the same lane of both accesses, counted in row-major order: it keeps its place wherever a layout puts it;
- a load before a store of another shape: what is stored may be made from what was loaded, and then has to wait for it;
- stores that agree about the byte;
- programs of one warp.
"""

from collections import defaultdict
from typing import Final

import numpy as np

from indexfuzz.lockstep.tracking.access import Access
from indexfuzz.lockstep.tracking.run import Run
from indexfuzz.lockstep.tracking.touched import Touched, list_bytes
from indexfuzz.lockstep.tracking.violations import Violation

_MOST: Final = 1 << 22
"""Bytes of the accesses between two barriers that are looked at; a group of more is passed over."""

_VERBS: Final = {"load": "loads", "store": "stores"}


def check_order(run: Run) -> bool:
    """Report the accesses of a completed run that depend on the order of lanes; whether none was passed over."""
    groups: dict[tuple[int, int], list[Access]] = defaultdict(list)
    for access in run.accesses:
        groups[access.barriers, id(access.allocation)].append(access)
    is_whole = True
    for accesses in groups.values():
        if len(accesses) > 1 and any(access.kind == "store" for access in accesses):
            is_whole &= _check(run, accesses)
    return is_whole


def _check(run: Run, accesses: list[Access]) -> bool:
    if sum(_lanes(access, run.count) * access.size for access in accesses) > _MOST:
        return False
    touched = [list_bytes(access, run.count) for access in accesses]
    for second, later in enumerate(touched):
        for earlier in touched[:second]:
            if "store" in (earlier.access.kind, later.access.kind):
                _compare(run, earlier, later)
    return True


def _lanes(access: Access, programs: int) -> int:
    return int(np.prod(access.pointer.shape, dtype=np.int64)) * programs


def _compare(run: Run, earlier: Touched, later: Touched) -> None:
    a, b = earlier.access, later.access
    if a.kind == "load" and a.pointer.shape != b.pointer.shape:
        return
    first = min(int(earlier.offset.min()), int(later.offset.min()))
    span = max(int(earlier.offset.max()), int(later.offset.max())) + 1 - first
    x, y = (t.program * span + t.offset - first for t in (earlier, later))
    order = np.argsort(x, kind="stable")
    keys = x[order]
    low, high = np.searchsorted(keys, y, "left"), np.searchsorted(keys, y, "right")
    met = high > low
    if not met.any():
        return
    low, high = np.minimum(low, keys.shape[0] - 1), np.maximum(high - 1, 0)
    # A lane meets another unless it meets itself alone: then the least and the greatest lane of the run are its own.
    lanes = earlier.lane[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    run_of = np.searchsorted(starts, low, "right") - 1
    least, most = np.minimum.reduceat(lanes, starts)[run_of], np.maximum.reduceat(lanes, starts)[run_of]
    bad = met & ((least != later.lane) | (most != later.lane))
    if earlier.value is not None and later.value is not None:
        values = earlier.value[order]
        lowest, highest = (reduce(values, starts)[run_of] for reduce in (np.minimum.reduceat, np.maximum.reduceat))
        bad &= (lowest != later.value) | (highest != later.value)
    if bad.any():
        at = int(np.argmax(bad))
        other = int(least[at] if least[at] != later.lane[at] else most[at])
        _report(run, earlier, later, at, other)


def _report(run: Run, earlier: Touched, later: Touched, at: int, other: int) -> None:
    a, b = earlier.access, later.access
    if a.site is None or b.site is None:
        return
    launch, pointer = run.launch, b.pointer
    program = launch.coordinates(int(run.programs[int(later.program[at])]))
    lane, before = (_unravel(i, x.pointer.shape) for i, x in ((int(later.lane[at]), b), (other, a)))
    byte = int(later.offset[at]) - pointer.base
    message = (
        f"{_VERBS[b.kind]} byte {byte} of {pointer.argument}, which lane {before} {_VERBS[a.kind]} on line "
        f"{a.site.line}; no barrier between makes one wait for the other"
    )
    where = launch.name, b.site.file, b.site.line, pointer.argument
    run.violations.append(Violation("order", *where, program, lane, byte, message, pointer.address))


def _unravel(index: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(index, shape)) if shape else ()
