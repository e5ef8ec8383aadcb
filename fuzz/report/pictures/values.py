"""An output element by element: right, another legal value, wrong, never written."""

import torch
from torch import Tensor

from indexfuzz.checks.describe import bits
from indexfuzz.report.pictures.grid import Panel, Picture, Shade, first_of
from indexfuzz.samples.poison import poison_like
from indexfuzz.triage.look import Look, numbers_of

LEGEND = (
    Shade("X", "wrong", "wrong"),
    Shade("u", "never written", "missing"),
    Shade("o", "differs from the reference, and may", "near"),
    Shade(".", "as the reference", "right"),
    Shade("-", "not to be written, and was not", "ground"),
)


def draw_values(look: Look) -> Picture | None:
    """The output that a finding is about; None where it has none, or the reference defines none."""
    stage, output = look.stage, look.finding.output
    got, expected, given = (
        stage.elements(look.given, tensors, output) for tensors in (look.got, look.wanted(), look.given.tensors)
    )
    if got is None or expected is None or got.shape != expected.shape or not got.numel():
        return None
    same = (bits(got) == bits(expected)) | (got.isnan() & expected.isnan() if got.dtype.is_floating_point else False)
    legal = same | stage.are_both_legal(look.given, output, got, expected, look.guarantees)
    is_filled = given is not None and (output in look.call.fills or output not in look.got)
    before = given if given is not None and is_filled else poison_like(got)
    untouched = bits(got) == bits(before)
    none = untouched & (bits(expected) == bits(poison_like(expected)))
    codes = torch.where(same, 3, torch.where(legal, 2, torch.where(untouched, 1, 0))).masked_fill(none, 4)
    axes = stage.axes.get(output) or ("block", "offset", "byte")  # the cache itself, where it is no output by its axes
    cells = ["".join(LEGEND[code].letter for code in row) for row in list_rows(codes)]
    labels = [", ".join(f"{a} {i}" for a, i in zip(axes, at, strict=False)) for at in list_indices(got)]
    mark = first_of(cells, "Xu")
    title = f"{output}: {' x '.join(axes)}"
    panel = Panel("actual, against the reference", tuple(labels), tuple(cells))
    return Picture(title, (panel,), LEGEND, mark, numbers_of(look.finding)) if mark else None


def list_rows(mask: Tensor) -> list[list[int]]:
    """A mask, or numbers, as rows; of one axis, a single row."""
    rows: list[list[int]] = mask.reshape(-1, mask.shape[-1]).tolist() if mask.dim() > 1 else [mask.tolist()]
    return rows


def list_indices(tensor: Tensor) -> list[tuple[int, ...]]:
    """The index of each row."""
    found: list[tuple[int, ...]] = [()]
    for size in tensor.shape[:-1]:
        found = [(*at, i) for at in found for i in range(size)]
    return found
