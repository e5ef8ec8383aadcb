"""Values that the program never defined, where they decide something: an address, a mask, a branch, a stored lane."""

from typing import TYPE_CHECKING

import numpy as np

from indexfuzz.lockstep.memory import Undo
from indexfuzz.lockstep.values import Array, Mask, Value

if TYPE_CHECKING:
    from indexfuzz.lockstep.access import Access
    from indexfuzz.lockstep.memory import Allocation
    from indexfuzz.lockstep.run import Run


def check_access(
    run: "Run", kind: str, pointer: Value, mask: Value | None, wanted: Mask, values: tuple[Value, ...]
) -> Mask:
    """Report undefined masks, addresses and stored lanes; the lanes that may go on."""
    usable = wanted
    if mask is not None and mask.undefined is not None and mask.undefined.any():
        run.report("uninitialised", pointer, mask.undefined, f"the mask of a {kind} is undefined")
        usable = usable & ~mask.undefined
    if pointer.undefined is not None:
        bad = pointer.undefined & usable
        if bad.any():
            run.report("uninitialised", pointer, bad, f"the address of a {kind} is undefined")
            usable = usable & ~pointer.undefined
    for value in values:
        if value.undefined is not None:
            bad = value.undefined & usable
            if bad.any():
                run.report("uninitialised", pointer, bad, f"a {kind} writes an undefined value")
    return usable


def uninitialised(access: "Access") -> Mask | None:
    """The accessed lanes with a byte that nobody wrote; None where there is none."""
    offsets, size = access.offsets, access.size
    result: Mask | None = None
    if not offsets.size:
        return None
    for buffer in access.allocation.buffers:
        flags = buffer.initialised
        if flags is None:
            continue
        relative = offsets - buffer.start
        inside = (relative >= 0) & (relative <= flags.shape[0] - size)
        index = np.where(inside, relative, 0)
        known = flags[index]
        for byte in range(1, size):
            known = known & flags[index + byte]
        bad = inside & ~known
        if bad.any():
            result = bad if result is None else result | bad
    return result


def mark_initialised(run: "Run", allocation: "Allocation", offsets: Array, size: int) -> None:
    """Bytes at these offsets are written."""
    for buffer in allocation.buffers:
        flags = buffer.initialised
        if flags is None:
            continue
        relative = offsets.ravel() - buffer.start
        relative = relative[(relative >= 0) & (relative <= flags.shape[0] - size)]
        for byte in range(size):
            index = relative + byte
            run.undo.append(Undo(flags, index, flags[index]))
            flags[index] = True
