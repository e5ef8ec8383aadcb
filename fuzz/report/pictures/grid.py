"""A picture as data: panels of cells, each cell a letter, and a legend that says what the letters mean.

A letter also has a tone, which renderers turn into colours that colour-blind people can tell apart; since the letter is
always drawn as well, nothing depends on the colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Tone = Literal["ground", "quiet", "right", "near", "wrong", "missing", "extra", "one", "two", "three", "four"]

MOST_ROWS = 24
"""Rows of a panel that are drawn: those around the first wrong cell."""


@dataclass(frozen=True)
class Shade:
    """What a letter means."""

    letter: str
    label: str
    tone: Tone


@dataclass(frozen=True)
class Panel:
    """Rows of cells, one letter each, with a label before each row; `step` columns of the data are one cell."""

    title: str
    labels: tuple[str, ...]
    cells: tuple[str, ...]
    step: int = 1

    @property
    def columns(self) -> int:
        """Cells in the longest row."""
        return max(map(len, self.cells), default=0)


@dataclass(frozen=True)
class Picture:
    """Panels with one legend; in it the letters that matter more come first, and win where cells are drawn as one.

    `mark` is the cell (row, column) of the first difference, in all panels; `notes` has the numbers that go with it.
    """

    title: str
    panels: tuple[Panel, ...]
    legend: tuple[Shade, ...]
    mark: tuple[int, int] | None
    notes: tuple[str, ...]

    def fitted(self, columns: int) -> "Picture":
        """The picture with at most so many cells in a row, and MOST_ROWS rows around the mark."""
        return self.without_repeats().cropped(columns)

    def without_repeats(self) -> "Picture":
        """Rows that say the same as those on both sides of them, in all panels, become one row of dots."""
        count = max((len(panel.cells) for panel in self.panels), default=0)
        told = [tuple(panel.cells[i] if i < len(panel.cells) else "" for panel in self.panels) for i in range(count)]
        marked = self.mark[0] if self.mark else -1
        dull = [
            0 < i < count - 1 and told[i - 1] == told[i] == told[i + 1] and abs(i - marked) > 1 for i in range(count)
        ]
        kept = [i for i in range(count) if not dull[i] or not dull[i - 1]]
        panels = tuple(
            Panel(
                panel.title,
                tuple("..." if dull[i] else panel.labels[i] for i in kept if i < len(panel.labels)),
                tuple("" if dull[i] else panel.cells[i] for i in kept if i < len(panel.cells)),
                panel.step,
            )
            for panel in self.panels
        )
        mark = (kept.index(marked), self.mark[1]) if self.mark and marked in kept else None
        return replace(self, panels=panels, mark=mark)

    def cropped(self, columns: int) -> "Picture":
        """The rows around the mark, with so many columns in a cell that the row fits."""
        widest = max((panel.columns for panel in self.panels), default=0)
        step = 1
        while -(-widest // step) > max(columns, 1):
            step *= 2
        rows = max((len(panel.cells) for panel in self.panels), default=0)
        first = 0
        if rows > MOST_ROWS:
            row = self.mark[0] if self.mark else 0
            first = min(max(row - MOST_ROWS // 2, 0), rows - MOST_ROWS)
        order = "".join(shade.letter for shade in self.legend)
        panels = tuple(_crop(panel, first, step, order) for panel in self.panels)
        mark = (self.mark[0] - first, self.mark[1] // step) if self.mark else None
        left_out = rows - MOST_ROWS
        more = (f"{left_out} of {rows} rows are left out.",) if left_out > 0 else ()
        coarse = (f"A cell stands for {step} columns.",) if step > 1 else ()
        return replace(self, panels=panels, mark=mark, notes=(*self.notes, *more, *coarse))

    def used_legend(self) -> tuple[Shade, ...]:
        """The letters that occur."""
        used = {letter for panel in self.panels for row in panel.cells for letter in row}
        return tuple(shade for shade in self.legend if shade.letter in used)


def _crop(panel: Panel, first: int, step: int, order: str) -> Panel:
    rows = slice(first, first + MOST_ROWS)
    cells = tuple(_merge(row, step, order) for row in panel.cells[rows])
    return Panel(panel.title, panel.labels[rows], cells, panel.step * step)


def _merge(row: str, step: int, order: str) -> str:
    """Each `step` letters as the one of them that matters most."""
    if step == 1:
        return row
    return "".join(min(row[at : at + step], key=order.find) for at in range(0, len(row), step))


def first_of(cells: Sequence[str], letters: str) -> tuple[int, int] | None:
    """The first cell, row by row, that has one of some letters."""
    for number, row in enumerate(cells):
        for at, letter in enumerate(row):
            if letter in letters:
                return number, at
    return None
