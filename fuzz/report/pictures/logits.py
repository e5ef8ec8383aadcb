"""Logits as rows x columns: which are seen, and how far each is off as a share of its bound."""

import torch
from torch import Tensor

from indexfuzz.checks.describe import bits
from indexfuzz.report.pictures.grid import Panel, Picture, Shade, first_of
from indexfuzz.stages.logits import LogitStage
from indexfuzz.triage.look import Look, numbers_of

LEGEND = (
    Shade("X", "beyond the bound", "wrong"),
    Shade("V", "shown, must be hidden", "extra"),
    Shade("m", "hidden, must be shown", "missing"),
    Shade("u", "never written", "missing"),
    Shade("O", "above half of the bound", "near"),
    Shade("o", "below half of the bound", "right"),
    Shade(".", "hidden, as it must be", "ground"),
)


def draw_logits(look: Look) -> Picture | None:
    """The logits of a launch; None where they have no bounds."""
    stage, got = look.stage, look.got.get("logits")
    if got is None or not isinstance(stage, LogitStage) or not got.numel():
        return None
    letters = _classify(stage, look, got)
    cells = ["".join(LEGEND[i].letter for i in row) for row in letters.tolist()]
    mark = first_of(cells, "XVmu")
    panel = Panel("actual", tuple(f"row {i}" for i in range(len(cells))), tuple(cells))
    return Picture("logits: row x column", (panel,), LEGEND, mark, numbers_of(look.finding)) if mark else None


def _classify(stage: LogitStage, look: Look, got: Tensor) -> Tensor:
    """The number in the legend of each logit."""
    limits, before = stage.limits(look.given, look.guarantees), look.given.tensors["logits"]
    stays = look.guarantees.promises.hidden_logits == "untouched"
    visible, untouched = limits.visible, bits(got) == bits(before)
    error = (got.double() - limits.reference).abs().nan_to_num(nan=float("inf"), posinf=float("inf"))
    free = torch.isinf(limits.bound)
    hidden_right = untouched if stays else got == float("-inf")
    found = torch.where(error <= limits.bound / 2, 5, torch.where(error <= limits.bound, 4, 0))
    found = torch.where(free, 5, found)
    found = torch.where(visible & ~free & (got == float("-inf")), 2, found)
    found = torch.where(~visible, torch.where(hidden_right, 6, 1), found)
    return torch.where(untouched & ~(free | ~visible if stays else free), 3, found)
