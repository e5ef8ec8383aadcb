"""What a replayed launch leaves beside what a fresh one leaves, element by element."""

from indexfuzz.oracles.pairs import OF_CACHE
from indexfuzz.report.pictures.grid import Panel, Picture, Shade, first_of
from indexfuzz.report.pictures.values import list_indices, list_rows
from indexfuzz.stages.table import find
from indexfuzz.triage.replayed import ReplayLook

LEGEND = (Shade("X", "not as in a fresh launch", "wrong"), Shade(".", "as in a fresh launch", "right"))


def draw_replayed(look: ReplayLook) -> Picture | None:
    """The output that a finding is about; None where it has no elements."""
    if not look.wrong.numel():
        return None
    output = look.finding.output
    letters = ["".join("X" if wrong else "." for wrong in row) for row in list_rows(look.wrong)]
    axes = find(look.finding.stage, output).axes.get(output, OF_CACHE)
    labels = tuple(", ".join(f"{a} {i}" for a, i in zip(axes, at, strict=False)) for at in list_indices(look.wrong))
    mark = first_of(letters, "X")
    panel = Panel("replayed, against a fresh launch", labels, tuple(letters))
    return Picture(f"{output}: {' x '.join(axes)}", (panel,), LEGEND, mark, ()) if mark else None
