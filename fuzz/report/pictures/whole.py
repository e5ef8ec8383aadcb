"""What the whole indexer leaves beside what its stages leave, element by element."""

from torch import Tensor

from indexfuzz.checks.describe import bits
from indexfuzz.report.pictures.grid import Panel, Picture, Shade, first_of
from indexfuzz.report.pictures.values import list_indices, list_rows
from indexfuzz.triage.look import numbers_of
from indexfuzz.triage.whole import WholeLook, seen_logits

LEGEND = (
    Shade("X", "wrong", "wrong"),
    Shade("o", "another of equal ones, or another order", "near"),
    Shade(".", "as the stages", "right"),
)

AXES = {
    "selected": ("token", "entry"),
    "cache": ("page", "token", "byte"),
    "q": ("token", "head", "dim"),
    "k": ("token", "dim"),
}


def draw_whole(look: WholeLook) -> Picture | None:
    """The output that a finding is about; None where its form is another one."""
    got, want, output = look.got, look.want, look.finding.output
    if got.shape != want.shape or got.dtype != want.dtype or not got.numel():
        return None
    differs = bits(got) != bits(want)
    letters = ["".join("X" if wrong else "." for wrong in row) for row in list_rows(differs)]
    if output == "selected":
        letters = [
            cells.replace("X", "o") if _is_legal(look, row, got[row]) else cells for row, cells in enumerate(letters)
        ]
    axes = AXES[output]
    labels = tuple(", ".join(f"{a} {i}" for a, i in zip(axes, at, strict=False)) for at in list_indices(got))
    mark = first_of(letters, "X")
    panel = Panel("the whole, against its stages", labels, tuple(letters))
    return Picture(f"{output}: {' x '.join(axes)}", (panel,), LEGEND, mark, numbers_of(look.finding)) if mark else None


def _is_legal(look: WholeLook, row: int, entries: Tensor) -> bool:
    """Whether a row selects keys with the largest of the logits that it sees."""
    logits, chosen = seen_logits(look.stepwise, row), [at for at in entries.tolist() if at != -1]
    best = sorted(logits.values(), reverse=True)[: len(entries)]
    known = [logits[at] for at in chosen if at in logits]
    return sorted(known, reverse=True) == best and len(set(chosen)) == len(chosen) == len(known)
