"""Cheap proofs that a launch has no race: what its programs access lies apart, or nothing is stored twice."""

from typing import Final

import numpy as np

from indexfuzz.lockstep.tracking.access import Access
from indexfuzz.lockstep.tracking.run import Launch
from indexfuzz.lockstep.values.arrays import count_by_program

_FAR: Final = np.int64(1 << 62)

_WORD: Final = 8
"""Bytes of the largest element."""

_SPREAD: Final = 64
"""Stores of n bytes are marked one by one in a map of up to this many times n bytes."""


def lie_apart(launch: Launch, accesses: list[Access]) -> bool:
    """Whether every program stays in a range of addresses of its own; cheap, and true for most kernels."""
    low = np.full(launch.total, _FAR)
    high = np.full(launch.total, -1, np.int64)
    for access in accesses:
        programs, runs = access.programs, access.runs
        if (access.shape if access.everywhere else access.lanes.shape)[0] != programs.shape[0]:
            return False
        starts, length = (access.offsets, 1) if runs is None else (runs.starts, runs.length)
        if access.everywhere:
            rows = starts.reshape(programs.shape[0], -1)
            least, most = rows.min(axis=1), rows.max(axis=1)
        else:
            counts = count_by_program(access.lanes) // length
            if not counts.all():
                programs, counts = programs[counts > 0], counts[counts > 0]
            first = np.cumsum(counts) - counts
            least, most = np.minimum.reduceat(starts, first), np.maximum.reduceat(starts, first)
        low[programs] = np.minimum(low[programs], least)
        high[programs] = np.maximum(high[programs], most + access.size * length)
    used = high >= 0
    low, high = low[used], high[used]
    order = np.argsort(low)
    return bool((low[order][1:] >= high[order][:-1]).all())


def is_stored_once(stores: list[Access], loads: list[Access]) -> bool:
    """Whether no byte is stored twice, nor loaded as well; cheap where the stores lie close together."""
    first = min(a.extent[0] for a in stores) & -_WORD
    span = max(a.extent[1] + a.size for a in stores) - first
    total = sum(a.count * a.size for a in stores)
    if span > _SPREAD * total:
        return False
    marks = np.zeros(-(-span // _WORD) * _WORD, np.uint8)
    for store in stores:
        rows = store.offsets.shape[0] if store.everywhere else store.lanes.shape[0]
        if rows != store.programs.shape[0] or not store.is_aligned:
            return False
        words = marks.view(f"u{store.size}")
        words[(store.offsets - first) // store.size] = np.iinfo(words.dtype).max
    if int(np.count_nonzero(marks)) != total:
        return False
    for load in loads:
        place = load.offsets.ravel() - first
        place = place[(place >= 0) & (place < span)]
        if not load.is_aligned or marks.view(f"u{load.size}").take(place // load.size).any():
            return False
    return True
