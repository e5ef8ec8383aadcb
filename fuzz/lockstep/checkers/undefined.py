"""Values that the program never defined, where they decide something: an address, a mask, a branch, a stored lane."""

from typing import TYPE_CHECKING

import numpy as np

from indexfuzz.lockstep.memory import Undo
from indexfuzz.lockstep.values import Array, Mask, Value

if TYPE_CHECKING:
    from indexfuzz.lockstep.access import Access
    from indexfuzz.lockstep.memory import Buffer
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
        relative = offsets - buffer.start if buffer.start else offsets
        inside = None if _is_whole(access, buffer) else (relative >= 0) & (relative <= flags.shape[0] - size)
        index = relative if inside is None else np.where(inside, relative, 0)
        if access.is_aligned and not buffer.start & (size - 1):
            words, every = _words(flags, size)
            bad = words.take(index // size) != every
        else:
            bad = ~np.logical_and.reduce([flags.take(index + byte) for byte in range(size)])
        if inside is not None:
            bad &= inside
        if bad.any():
            result = bad if result is None else result | bad
    return result


def mark_initialised(access: "Access", offsets: Array) -> None:
    """Bytes at these offsets are written."""
    size, undo = access.size, access.run.undo
    for buffer in access.allocation.buffers:
        flags = buffer.initialised
        if flags is None:
            continue
        relative = offsets.ravel() - buffer.start
        if not _is_whole(access, buffer):
            relative = relative[(relative >= 0) & (relative <= flags.shape[0] - size)]
        if access.is_aligned and not buffer.start & (size - 1):
            words, every = _words(flags, size)
            _mark(words, relative // size, every, undo)
        else:
            for byte in range(size):
                _mark(flags, relative + byte, np.True_, undo)


def _mark(flags: Array, index: Array, value: np.generic, undo: list[Undo]) -> None:
    undo.append(Undo(flags, index, flags.take(index)))
    flags[index] = value


def _words(flags: Mask, size: int) -> tuple[Array, np.generic]:
    """The flags of elements of `size` bytes as one integer each, and the one of an element that is initialised."""
    words = flags[: flags.shape[0] // size * size].view(f"u{size}")
    return words, words.dtype.type(sum(1 << 8 * byte for byte in range(size)))


def _is_whole(access: "Access", buffer: "Buffer") -> bool:
    """Whether every lane is known to lie inside a buffer."""
    low, high = access.pointer.low, access.pointer.high
    return low is not None and high is not None and buffer.start <= low and high + access.size <= buffer.end
