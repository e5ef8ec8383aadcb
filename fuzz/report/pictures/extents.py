"""The shape of a result beside the one that it must have."""

import math

from indexfuzz.report.pictures.grid import Panel, Picture, Shade, first_of
from indexfuzz.triage.look import Look, numbers_of

LEGEND = (
    Shade("m", "must be there, and is not", "missing"),
    Shade("X", "is there, and must not be", "wrong"),
    Shade("D", "of another dtype", "near"),
    Shade("#", "must be there", "right"),
    Shade(".", "there, as it must be", "right"),
)

MOST = 1 << 14
"""Elements of either shape that are drawn."""


def draw_extents(look: Look) -> Picture | None:
    """The extents of an output that has another shape or dtype than asked for; None where nothing was returned."""
    output = look.finding.output
    form, got = look.stage.forms(look.given).get(output), look.got.get(output)
    if form is None or got is None:
        return None
    shape, dtype = form
    (rows, columns), (own_rows, own_columns) = _flat(shape), _flat(tuple(got.shape))
    if max(rows, own_rows) * max(columns, own_columns) > MOST:
        return None
    right = "." if got.dtype == dtype else "D"
    expected, actual = [], []
    for row in range(max(rows, own_rows)):
        must, has = (columns if row < rows else 0), (own_columns if row < own_rows else 0)
        expected.append("#" * must)
        actual.append(right * min(must, has) + "m" * (must - has) + "X" * (has - must))
    labels = tuple(f"row {i}" for i in range(len(actual)))
    panels = (
        Panel(f"should be {_words(shape)}", labels, tuple(expected)),
        Panel(f"is {_words(tuple(got.shape))}", labels, tuple(actual)),
    )
    mark = first_of(actual, "mXD")
    return Picture(f"{output}: extents", panels, LEGEND, mark, numbers_of(look.finding)) if mark else None


def _flat(shape: tuple[int, ...]) -> tuple[int, int]:
    """A shape as rows and columns: all axes but the last are rows."""
    return (math.prod(shape[:-1]), shape[-1]) if shape else (1, 1)


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a scalar"
