"""The memory around a tensor, byte by byte: where accesses were, and what belongs to no tensor."""

from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

from indexfuzz.lockstep.source.search import Doing
from indexfuzz.lockstep.values.arrays import Array
from indexfuzz.report.pictures.grid import Panel, Picture, Shade, first_of
from indexfuzz.stages.places import span_of
from indexfuzz.triage.look import Look, numbers_of

LEGEND = (
    Shade("X", "accessed, and belongs to no tensor", "wrong"),
    Shade("a", "accessed", "one"),
    Shade("t", "of the tensor, not accessed", "quiet"),
    Shade(".", "guard: belongs to no tensor", "ground"),
)

LINE = 64
"""Bytes of a row."""

AROUND = 10 * LINE
"""Bytes before and after the first stray one that are drawn."""

SMALL = 1 << 20
"""Bytes up to which the gaps between the rows of a tensor are drawn."""


def draw_accesses(look: Look) -> Picture | None:
    """All lanes of the access that a finding is about; None where it stays inside."""
    doing = look.doing()
    if (
        doing is None
        or not doing.moment.frames
        or not doing.moment.pointer.origins
        or doing.moment.pointer.which is not None
    ):
        return None
    pointer = doing.moment.pointer
    origin = pointer.origins[0]
    storage = origin.allocation.address
    given, made = (_in_storage(tensors, storage) for tensors in (look.call.tensors, doing.moment.tensors))
    own = list((given or made).values())
    if not own:
        return None
    touched = _touched(look, doing, storage)
    start = own[0].data_ptr() - storage
    stray = [int(at) for at in touched if not any(holds(t, storage + int(at)) for t in own)]
    if not stray:
        return None
    first = min(stray, key=lambda at: abs(at - start))
    accessed = set(touched.tolist())

    def letter(at: int) -> str:
        inside = any(holds(t, storage + at) for t in own)
        return ("a" if inside else "X") if at in accessed else "t" if inside else "."

    labels, cells = rows_of_bytes(letter, first, start)
    name = next(iter(given or made))
    whose = "" if given else ", a tensor that the caller of the kernel makes"
    notes = (*numbers_of(look.finding), f"Bytes are counted from the start of {name}{whose}.")
    panel = Panel(f"through {pointer.argument}, {LINE} bytes a row", labels, cells)
    return Picture("memory around the buffer", (panel,), LEGEND, first_of(cells, "X"), notes)


def rows_of_bytes(letter: Callable[[int], str], first: int, start: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Labels and cells of the lines around the byte `first` of a storage, a letter each; labels count from `start`.

    Of what lies before a tensor that starts at `start`, a few lines are drawn where `first` comes behind that.
    """
    low = first - AROUND if first < start else max(first - AROUND, start - 4 * LINE)
    lines = range((low - start) // LINE * LINE + start, first + AROUND, LINE)
    cells = tuple("".join(letter(at) for at in range(line, line + LINE)) for line in lines)
    return tuple(f"{line - start:+d}" for line in lines), cells


def _touched(look: Look, doing: Doing, storage: int) -> Array:
    """The offsets in a storage of all bytes that the line of the finding accessed, or wanted to."""
    found: list[Array] = []
    for moment in look.recorder.moments:
        access = moment.access
        is_same = moment.frames[:1] and moment.frames[0].site[:2] == doing.moment.frames[0].site[:2]
        if access is None or not is_same or access.allocation.address != storage:
            continue
        shape = np.broadcast_shapes(moment.pointer.data.shape, access.wanted.shape)
        wanted = np.broadcast_to(access.wanted, shape)
        offsets = np.broadcast_to(moment.pointer.data, shape)[wanted]
        found.append((offsets.reshape(-1, 1) + np.arange(access.size)).ravel())
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)


def holds(tensor: Tensor, address: int) -> bool:
    """Whether a byte belongs to a tensor, as far as its gaps are looked at."""
    lead = address - tensor.data_ptr()
    if not 0 <= lead < span_of(tensor):
        return False
    if tensor.is_contiguous() or span_of(tensor) > SMALL:
        return True
    rest = lead
    for dim in sorted(range(tensor.dim()), key=tensor.stride, reverse=True):
        step = tensor.stride(dim) * tensor.element_size()
        if tensor.shape[dim] > 1:
            at = min(rest // step, tensor.shape[dim] - 1)
            rest -= at * step
    return rest < tensor.element_size()


def _in_storage(tensors: Mapping[str, Tensor], storage: int) -> dict[str, Tensor]:
    """Those of some tensors that have something in a storage."""
    return {name: t for name, t in tensors.items() if t.untyped_storage().data_ptr() == storage and t.numel()}
