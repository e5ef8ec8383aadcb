"""Memory that a kernel read though nobody had written it: where it lies in its buffer, and what does hold something."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from indexfuzz.lockstep.source.search import Doing
from indexfuzz.lockstep.tracking.access import Access
from indexfuzz.lockstep.values.arrays import Array
from indexfuzz.report.pictures.grid import Panel, Picture, Shade, first_of
from indexfuzz.report.pictures.memory import LINE, holds, rows_of_bytes
from indexfuzz.stages.places import Places, span_of
from indexfuzz.triage.look import Look, numbers_of

LEGEND = (
    Shade("X", "read, and nobody wrote it", "wrong"),
    Shade("r", "read, and holds something", "one"),
    Shade("w", "holds something, not read", "two"),
    Shade("u", "nobody wrote it, not read", "quiet"),
    Shade(".", "guard: belongs to no tensor", "ground"),
)


def draw_unwritten(look: Look) -> Picture | None:
    """The memory around the first byte of the load that an undefined value comes from; None of any other finding."""
    doing = look.doing() if look.finding.kind == "uninitialised" else None
    found = _find_load(doing) if doing else None
    if found is None:
        return None
    load, read, unwritten = found
    storage = load.allocation.address
    own = {name: t for name, t in look.call.tensors.items() if t.untyped_storage().data_ptr() == storage and t.numel()}
    name = next((name for name, t in own.items() if holds(t, storage + int(unwritten[0]))), next(iter(own), ""))
    if not name:
        return None
    flags = [_flags(tensor, look.written[here]) for here, tensor in own.items()]
    all_read, bad = set(read.tolist()), set(unwritten.tolist())

    def letter(at: int) -> str:
        if at in bad:
            return "X"
        if not any(holds(tensor, storage + at) for tensor in own.values()):
            return "r" if at in all_read else "."
        is_written = any(says(storage + at) for says in flags)
        return "r" if at in all_read else "w" if is_written else "u"

    first, start = int(unwritten[0]), own[name].data_ptr() - storage
    labels, cells = rows_of_bytes(letter, first, start)
    place = Places(look.call, look.got)(storage + first)
    line = f"line {load.site.line} loads" if load.site else "it loads"
    where = f"byte {first - start} of {name}{f': {place}' if place else ''}"
    notes = (
        *numbers_of(look.finding),
        f"{line} {load.pointer.argument}, {where}, where nobody wrote",
        f"Bytes are counted from the start of {name}.",
    )
    panel = Panel(f"{name}, {LINE} bytes a row", labels, cells)
    return Picture("memory that nobody wrote", (panel,), LEGEND, first_of(cells, "X"), notes)


def _find_load(doing: Doing) -> tuple[Access, Array, Array] | None:
    """The first load that left something undefined in a program: what it read, and which of that nobody wrote."""
    row = doing.moment.row_of(doing.program)
    for access in doing.moment.before:
        if access.undefined is None or row < 0:
            continue
        shape = np.broadcast_shapes(access.undefined.shape, access.wanted.shape, access.pointer.data.shape)
        at = row if shape[0] > 1 else 0
        marks, wanted, offsets = (
            np.broadcast_to(each, shape)[at] for each in (access.undefined, access.wanted, access.pointer.data)
        )
        if (marks & wanted).any():
            return access, _bytes(offsets[wanted], access.size), _bytes(offsets[marks & wanted], access.size)
    return None


def _bytes(offsets: Array, size: int) -> Array:
    """All bytes of elements at some offsets, in order."""
    return np.unique((offsets.reshape(-1, 1) + np.arange(size)).ravel())


def _flags(tensor: Tensor, written: Tensor | bool) -> Callable[[int], bool]:  # noqa: FBT001
    """Whether the byte at an address is one of a tensor's that hold something."""
    if isinstance(written, bool):
        return lambda address: written and holds(tensor, address)
    spread = np.zeros(span_of(tensor), np.bool_)
    size = tensor.element_size()
    shape, strides = (*tensor.shape, size), (*(step * size for step in tensor.stride()), 1)
    flags = written.cpu().numpy().reshape(shape)
    np.lib.stride_tricks.as_strided(spread, shape, strides)[...] = flags
    start = tensor.data_ptr()
    return lambda address: 0 <= address - start < len(spread) and bool(spread[address - start])
