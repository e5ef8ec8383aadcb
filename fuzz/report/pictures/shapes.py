"""A picture as shapes with places and colours: boxes and words, which every kind of file can hold.

Colours are those of Okabe and Ito ("Color Universal Design", 2008), which people with any kind of colour blindness can
tell apart, on light ground in every theme; each cell also shows its letter.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from indexfuzz.report.pictures.grid import Panel, Picture, Tone

MOST_COLUMNS = 128
"""Cells in a row, at most."""

CELL, LABEL, GAP, LINE = 12, 110, 22, 16
MARGIN = 8
"""What is left white on each side."""

LETTER = 7
"""Pixels that a letter of a label or a note takes at most; LABEL is the least that is left for labels."""

BLACK, WHITE, GREY = "#000000", "#ffffff", "#8a929b"

FILL: dict[Tone, str] = {
    "ground": WHITE,
    "quiet": "#e4e7eb",
    "right": "#9ad0f0",
    "near": "#f0e442",
    "wrong": "#d55e00",
    "missing": BLACK,
    "extra": "#cc79a7",
    "one": "#9ad0f0",
    "two": "#8fd9bf",
    "three": "#f3d08a",
    "four": "#d5c4e8",
}
DARK: frozenset[Tone] = frozenset({"wrong", "missing"})
"""Tones that letters are white on."""


@dataclass(frozen=True)
class Box:
    """A square, in pixels: `fill` is its colour or "none", `border` the width of its edge, half of it outside."""

    x: int
    y: int
    size: int
    fill: str
    edge: str
    border: float


@dataclass(frozen=True)
class Words:
    """A line of text whose baseline is at `y`; it begins at `x`, or has its middle there."""

    x: float
    y: float
    text: str
    size: int = 11
    ink: str = BLACK
    bold: bool = False
    centred: bool = False


@dataclass(frozen=True)
class Drawing:
    """Shapes on white ground, later ones above earlier ones; `told` says in words what there is to see.

    Their places count from a corner that lies MARGIN pixels inside; width and height are those without margins.
    """

    width: int
    height: int
    title: str
    told: str
    shapes: tuple[Box | Words, ...]


def lay_out(picture: Picture) -> Drawing:
    """Place the panels below each other, then the legend, then the numbers of the first difference."""
    picture = picture.fitted(MOST_COLUMNS)
    shapes: list[Box | Words] = []
    y = 20
    left = max([LABEL, *(LETTER * len(label) + 4 for panel in picture.panels for label in panel.labels)])
    for panel in picture.panels:
        shapes += _panel(panel, picture, left, y)
        y += GAP + CELL * len(panel.cells) + GAP
    for shade in picture.used_legend():
        shapes += [*_cell(0, y, shade.letter, shade.tone), Words(CELL + 8, y + 10, shade.label)]
        y += LINE + 2
    for note in picture.notes:
        shapes.append(Words(0, y + 12, note))
        y += LINE
    lengths = [*map(len, picture.notes), *(len(_heading(panel, picture)) for panel in picture.panels)]
    width = max(left + CELL * max(panel.columns for panel in picture.panels) + 8, LETTER * max(lengths), 320)
    told = " ".join((*picture.notes, *(f"{s.letter}: {s.label}." for s in picture.used_legend())))
    return Drawing(width, y + 8, picture.title, told, tuple(shapes))


def _heading(panel: Panel, picture: Picture) -> str:
    return f"{picture.title}: {panel.title}"


def _panel(panel: Panel, picture: Picture, left: int, y: int) -> Iterator[Box | Words]:
    tones = {shade.letter: shade.tone for shade in picture.legend}
    yield Words(0, y, _heading(panel, picture), bold=True)
    top = y + 8
    for number, (label, cells) in enumerate(zip(panel.labels, panel.cells, strict=True)):
        place = top + CELL * number
        yield Words(0, place + 10, label)
        for at, letter in enumerate(cells):
            yield from _cell(left + CELL * at, place, letter, tones[letter])
    if picture.mark and picture.mark[0] < len(panel.cells):
        row, column = picture.mark
        yield Box(left + CELL * column - 1, top + CELL * row - 1, CELL + 2, "none", BLACK, 2.5)


def _cell(x: int, y: int, letter: str, tone: Tone) -> tuple[Box, Words]:
    ink = WHITE if tone in DARK else BLACK
    square = Box(x, y, CELL, FILL[tone], GREY, 0.4)
    return square, Words(x + CELL / 2, y + 9.5, letter, size=9, ink=ink, centred=True)
