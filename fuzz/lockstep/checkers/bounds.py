"""Accesses outside the tensor that a pointer came from, and accesses at addresses that their size does not divide."""

import numpy as np

from indexfuzz.lockstep.tracking.access import Access
from indexfuzz.lockstep.tracking.run import Run
from indexfuzz.lockstep.values.arrays import Array, Mask
from indexfuzz.lockstep.values.memory import Allocation


def check_bounds(run: Run, access: Access) -> Mask | None:
    """Report bad lanes; the good ones where some are not (shaped as the offsets), None where all are good."""
    allocation, size = access.allocation, access.size
    if run.checks.bounds and (not access.is_aligned or allocation.address & (size - 1)) and access.count:
        _check_alignment(run, access)
    pointer = access.pointer
    if pointer.low is not None and pointer.high is not None and _fits(allocation, pointer.low, pointer.high + size):
        return None
    if not access.count:
        return None
    low, high = access.extent
    if _fits(allocation, low, high + size):
        return None
    offsets = access.offsets
    inside = (offsets >= 0) & (offsets <= allocation.size - size)
    if allocation.buffers:
        inside &= np.logical_or.reduce([buffer.contains(offsets, size) for buffer in allocation.buffers])
    if inside.all():
        return None
    if run.checks.bounds:
        _report(run, access, inside)
    return inside


def _fits(allocation: Allocation, low: int, high: int) -> bool:
    if low < 0 or high > allocation.size:
        return False
    for buffer in allocation.buffers:
        if not buffer.dims and buffer.start <= low and high <= buffer.end:
            return True
    return not allocation.buffers


def _report(run: Run, access: Access, inside: Mask) -> None:
    first = int(np.argmin(inside.ravel()))
    offset = int(access.offsets.ravel()[first])
    relative = offset - access.pointer.base
    allocation = access.allocation
    verb = {"load": "loads", "store": "stores", "atomic": "updates"}[access.kind]
    outside = offset < 0 or offset > allocation.size - access.size
    where = f"its storage of {allocation.size} bytes" if outside else "every buffer declared in its storage"
    message = f"{verb} {access.size} bytes at byte {relative} of {access.pointer.argument}, outside {where}"
    run.report("out-of-bounds", access.pointer, _lanes(access, ~inside), message)


def _lanes(access: Access, bad: Mask) -> Mask:
    if access.everywhere:
        return bad
    marks = np.zeros(access.lanes.shape, np.bool_)
    marks[access.lanes] = bad
    return marks


def _check_alignment(run: Run, access: Access) -> None:
    offsets, size, address = access.offsets, access.size, access.allocation.address
    mask = size - 1
    if not address & mask and not int(np.bitwise_or.reduce(offsets, axis=None)) & mask:
        return
    bad: Array = (offsets + address) & mask != 0
    if bad.any():
        offset = int(offsets.ravel()[int(np.argmax(bad.ravel()))]) - access.pointer.base
        message = (
            f"{access.kind}s {size} bytes at byte {offset} of {access.pointer.argument}, which {size} does not divide"
        )
        run.report("misaligned", access.pointer, _lanes(access, bad), message)
