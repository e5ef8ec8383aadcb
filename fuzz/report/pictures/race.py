"""The bytes that programs of a launch fight for: a row for each program, and which of them it stores or loads."""

from itertools import islice

import numpy as np
import torch
from torch import Tensor

from indexfuzz.checks.describe import text
from indexfuzz.lockstep.source.search import Doing
from indexfuzz.lockstep.source.sharing import Sharing
from indexfuzz.lockstep.source.words import at_lane
from indexfuzz.lockstep.values.arrays import Array
from indexfuzz.report.pictures.grid import Panel, Picture, Shade, first_of
from indexfuzz.report.pictures.memory import LINE
from indexfuzz.stages.places import Places
from indexfuzz.triage.look import Look

LEGEND = (
    Shade("X", "stores, and another program loads it or stores something else", "wrong"),
    Shade("L", "loads what another program stores", "wrong"),
    Shade("s", "stores", "one"),
    Shade("l", "loads", "two"),
    Shade(".", "not touched", "ground"),
)

MOST_TOLD = 3
"""Programs whose values are told."""


def draw_race(look: Look) -> Picture | None:
    """The first line of bytes that two programs fight for, and all programs that touch it; None of other findings."""
    doing, sharing = look.doing(), look.sharing
    if doing is None or sharing is None or not doing.moment.pointer.origins:
        return None
    origin = doing.moment.pointer.origins[0]
    contested = sharing.first
    first = (contested - origin.base) // LINE * LINE + origin.base
    labels, cells = _rows(sharing, doing, first)
    place = Places(look.call, look.got)(origin.allocation.address + contested)
    where = f"byte {contested - origin.base} of {origin.argument}{f', {place}' if place else ''}"
    notes = (
        f"{where}: what it holds in the end depends on which program comes last",
        *(_tell(look, sharing, rival) for rival in islice(sharing.at(contested), MOST_TOLD)),
    )
    start = first - origin.base
    panel = Panel(f"bytes {start} to {start + LINE - 1} of {origin.argument}, by program", labels, cells)
    return Picture("who stores which byte", (panel,), LEGEND, first_of(cells, "XL"), notes)


def _rows(sharing: Sharing, doing: Doing, first: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A row of LINE letters for each program that touches the bytes from `first` on."""
    inside = (sharing.offset >= first) & (sharing.offset < first + LINE)
    labels, cells = list[str](), list[str]()
    for program in np.unique(sharing.program[inside]):
        own = inside & (sharing.program == program)
        row = np.full(LINE, ".")
        for letter, which in _letters(sharing):
            row[sharing.offset[own & which] - first] = letter
        labels.append(f"program {doing.moment.coordinates(int(program))}")
        cells.append("".join(row))
    return tuple(labels), tuple(cells)


def _letters(sharing: Sharing) -> tuple[tuple[str, Array], ...]:
    """What each letter stands for, the one that matters most last."""
    stores, contested = sharing.is_store, sharing.is_contested
    return (("l", ~stores), ("s", stores), ("L", ~stores & contested), ("X", stores & contested))


def _tell(look: Look, sharing: Sharing, rival: Doing) -> str:
    """What a program does to the first byte that is fought for."""
    access, program = rival.moment.access, f"program {rival.moment.coordinates(rival.program)}"
    if access is None or access.kind == "load":
        return f"{program} loads it"
    offsets = rival.moment.pointer.data
    row = rival.moment.row_of(rival.program) if len(offsets) > 1 else 0
    start = int(at_lane(offsets, row, rival.lane))
    raw = sharing.stored_at(start, access.size, rival.program)
    return f"{program} stores {_value(look, access.allocation.address, raw)}"


def _value(look: Look, storage: int, raw: bytes) -> str:
    """Stored bytes as an element of the tensor whose storage it is."""
    dtype = next((t.dtype for t in look.call.tensors.values() if _storage_of(t) == storage), torch.uint8)
    if dtype.itemsize != len(raw):
        return f"0x{raw[::-1].hex()}"
    return text(torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(dtype)[0])


def _storage_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
