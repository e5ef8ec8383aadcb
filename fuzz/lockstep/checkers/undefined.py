"""Values that the program never defined, where they decide something: an address, a mask, a branch, a stored lane.

Values do not remember where they came from. A report lists what the program has loaded so far that nothing defined:
seldom more than one load, and it is among them.
"""

from typing import TYPE_CHECKING

import numpy as np

from indexfuzz.lockstep.memory import Undo
from indexfuzz.lockstep.values import Array, Mask, Value

if TYPE_CHECKING:
    from indexfuzz.lockstep.access import Access
    from indexfuzz.lockstep.memory import Buffer
    from indexfuzz.lockstep.run import Run

MOST_REASONS = 3


def check_access(
    run: "Run", kind: str, pointer: Value, mask: Value | None, wanted: Mask, values: tuple[Value, ...]
) -> Mask:
    """Report undefined masks, addresses and stored lanes; the lanes that may go on."""
    usable = wanted
    if mask is not None and mask.undefined is not None and mask.undefined.any():
        report(run, pointer, mask.undefined, f"the mask of a {kind} is undefined")
        usable = usable & ~mask.undefined
    if pointer.undefined is not None:
        bad = pointer.undefined & usable
        if bad.any():
            report(run, pointer, bad, f"the address of a {kind} is undefined")
            usable = usable & ~pointer.undefined
    for value in values:
        if value.undefined is not None:
            bad = value.undefined & usable
            if bad.any():
                report(run, pointer, bad, f"a {kind} writes an undefined value")
    return usable


def report(run: "Run", value: Value, lanes: Mask, message: str) -> None:
    """Report that something undefined is used in these lanes, and which loads of the program may be the reason."""
    if run.has_reported("uninitialised", value, run.site()):
        return
    program = int(np.argmax(lanes.reshape(lanes.shape[0], -1).any(1)))
    reasons = list(dict.fromkeys(reason for access in run.undefined if (reason := _reason(access, program))))
    if len(reasons) > MOST_REASONS:
        reasons[MOST_REASONS - 1 :] = [f"{len(reasons) - MOST_REASONS + 1} other loads"]
    run.report("uninitialised", value, lanes, ": ".join([message, " or ".join(reasons)] if reasons else [message]))


def _reason(access: "Access", program: int) -> str:
    """What a load left undefined in a program; empty when it left nothing so."""
    if access.undefined is None or access.site is None:
        return ""
    pointer = access.pointer
    shape = np.broadcast_shapes(access.undefined.shape, access.wanted.shape, pointer.data.shape)
    row = program if shape[0] > 1 else 0
    marks, wanted, offsets = (np.broadcast_to(a, shape)[row] for a in (access.undefined, access.wanted, pointer.data))
    if not marks.any():
        return ""
    line = f"line {access.site.line} loads {pointer.argument}"
    unwritten = marks & wanted
    if unwritten.any():
        byte = int(offsets.flat[int(np.argmax(unwritten))]) - pointer.base
        return f"{line} at byte {byte}, where nobody wrote"
    lane = tuple(int(i) for i in np.unravel_index(int(np.argmax(marks)), marks.shape))
    return f"{line}, lane {lane} masked off without `other`" if lane else f"{line}, masked off without `other`"


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
