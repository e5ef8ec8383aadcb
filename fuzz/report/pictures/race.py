"""The bytes that programs of a launch fight for: a row for each program, and which of them it stores or loads."""

from itertools import islice

import numpy as np

from indexfuzz.lockstep.source.search import Doing
from indexfuzz.lockstep.source.sharing import Sharing
from indexfuzz.lockstep.source.words import describe_value
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
        *(_tell(look, rival) for rival in islice(sharing.at(contested), MOST_TOLD)),
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


def _tell(look: Look, rival: Doing) -> str:
    """What a program does to the first byte that is fought for."""
    moment, program = rival.moment, f"program {rival.moment.coordinates(rival.program)}"
    if moment.access is None or moment.access.kind == "load":
        return f"{program} loads it"
    places = Places(look.call, look.got)
    values = (describe_value(value, moment.row_of(rival.program), rival.lane, places) for value in moment.stored)
    return f"{program} stores {next(values, 'there')}"
