"""A selection as rows x columns: what was chosen, and what may be."""

import torch

from indexfuzz.report.pictures.grid import Panel, Picture, Shade, first_of
from indexfuzz.triage.look import Look, numbers_of

LEGEND = (
    Shade("X", "chosen, and must not be", "wrong"),
    Shade("m", "left out, and must be chosen, or one that is equal", "missing"),
    Shade("c", "chosen, rightly", "right"),
    Shade("-", "not chosen, rightly", "quiet"),
    Shade(".", "hidden", "ground"),
)


def draw_selection(look: Look) -> Picture | None:
    """What a top-k chose of each row; None where there are no columns."""
    logits, chosen = look.given.tensors["logits"], look.got.get(look.finding.output)
    if chosen is None or chosen.dim() != 2 or not logits.numel():
        return None
    rows, columns = logits.shape
    visible = logits != float("-inf")
    wanted = min(chosen.shape[1], columns)
    ranked = torch.where(visible, logits.nan_to_num(0.0, float("inf"), float("-inf")), float("-inf"))
    least = ranked.sort(1, descending=True).values[:, wanted - 1 : wanted] if wanted else torch.full((rows, 1), 0.0)
    taken = torch.zeros((rows, columns + 1), dtype=torch.bool)
    exists = (chosen >= 0) & (chosen < columns)
    taken.scatter_(1, torch.where(exists, chosen.long(), columns), value=True)
    inside = taken[:, :columns]
    may, must = visible & (ranked >= least), visible & (ranked > least)
    few = visible.sum(1, keepdim=True) <= chosen.shape[1]
    must |= visible & few
    # A row that took too few could have taken any of the equal ones that it left.
    room = visible.sum(1, keepdim=True).clamp_max(chosen.shape[1])
    must |= may & ((inside & may).sum(1, keepdim=True) < room)
    found = torch.where(inside, torch.where(may, 2, 0), torch.where(must, 1, torch.where(visible, 3, 4)))
    cells = ["".join(LEGEND[i].letter for i in row) for row in found.tolist()]
    mark = first_of(cells, "Xm")
    panel = Panel("chosen", tuple(f"row {i}" for i in range(rows)), tuple(cells))
    entry = look.finding.index
    listed = chosen[entry[0]].tolist()[:16] if entry and entry[0] < len(chosen) else []
    notes = (*numbers_of(look.finding), *((f"row {entry[0]} chose {listed}",) if listed else ()))
    return Picture(f"{look.finding.output}: row x column", (panel,), LEGEND, mark, notes)
