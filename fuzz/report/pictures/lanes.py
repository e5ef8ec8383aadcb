"""The lanes of one access: whose offsets wrapped around, or whose values were left undefined by a mask."""

import numpy as np

from indexfuzz.lockstep.source.search import Doing
from indexfuzz.lockstep.tracking.access import Access
from indexfuzz.lockstep.values.arrays import Mask
from indexfuzz.lockstep.values.dtypes import ScalarType
from indexfuzz.lockstep.values.value import Value
from indexfuzz.report.pictures.grid import Panel, Picture, Shade, first_of
from indexfuzz.triage.look import Look

WRAPPED = (
    Shade("X", "a 32-bit number on the way to its offset overflowed", "wrong"),
    Shade(".", "its offset is what was meant", "right"),
)
UNDEFINED = (
    Shade("X", "masked off without `other`: holds nothing", "wrong"),
    Shade(".", "loaded", "right"),
)


def draw_lanes(look: Look) -> Picture | None:
    """The lanes of the access that a finding is about, in the program that showed it; None of any other finding."""
    doing = look.doing() if look.finding.kind in ("overflow", "uninitialised") else None
    if doing is None:
        return None
    if look.finding.kind == "overflow":
        return _draw_wrapped(doing)
    masked = next((access for access in doing.moment.before if _find_masked(access, doing) is not None), None)
    lanes = _find_masked(masked, doing) if masked else None
    if masked is None or lanes is None:
        return None
    line = f"line {masked.site.line}: " if masked.site else ""
    return _draw(lanes, UNDEFINED, "lanes that hold nothing", f"{line}load through {masked.pointer.argument}", ())


def _draw_wrapped(doing: Doing) -> Picture | None:
    pointer = doing.moment.pointer
    lanes = _of_program(pointer.wrapped, pointer, doing)
    if lanes is None or not lanes.any():
        return None
    offsets = np.broadcast_to(pointer.data, (len(pointer.data), *pointer.shape))
    row = doing.moment.row_of(doing.program) if len(offsets) > 1 else 0
    here = int(offsets[row][lanes][0]) - pointer.base
    element = pointer.ty.element
    meant = here + (1 << 32) * (element.bits // 8 if isinstance(element, ScalarType) else 1)
    notes = [f"the first that overflowed points to byte {here} of {pointer.argument}"]
    allocation = pointer.allocation
    if allocation is not None and 0 <= meant + pointer.base < allocation.size:
        notes.append(f"in 64 bits it would be byte {meant}, which lies in its buffer")
    return _draw(lanes, WRAPPED, "offsets that overflow", f"access through {pointer.argument}", tuple(notes))


def _draw(lanes: Mask, legend: tuple[Shade, ...], title: str, panel: str, notes: tuple[str, ...]) -> Picture:
    rows = lanes.reshape(-1, lanes.shape[-1]) if lanes.ndim else lanes.reshape(1, 1)
    cells = tuple("".join("X" if lane else "." for lane in row) for row in rows)
    whole = "the only lane" if lanes.size == 1 else "all lanes"
    labels = tuple(f"lanes ({', '.join(map(str, at))}, *)" if at else whole for at in np.ndindex(lanes.shape[:-1]))
    return Picture(title, (Panel(f"{panel}, by lane", labels, cells),), legend, first_of(cells, "X"), notes)


def _find_masked(access: Access, doing: Doing) -> Mask | None:
    """The lanes that a load left undefined because they were masked off; None where there is none."""
    if access.undefined is None:
        return None
    lanes = _of_program(access.undefined & ~access.wanted, access.pointer, doing)
    return lanes if lanes is not None and lanes.any() else None


def _of_program(lanes: Mask | None, pointer: Value, doing: Doing) -> Mask | None:
    """A mask over programs and lanes in the program that is meant, of the block's shape."""
    row = doing.moment.row_of(doing.program)
    if lanes is None or row < 0:
        return None
    whole = np.broadcast_to(lanes, np.broadcast_shapes(lanes.shape, (1, *pointer.shape)))
    found: Mask = whole[row if len(whole) > 1 else 0]
    return found
