"""An output element by element: right, another legal value, wrong, never written."""

import torch
from torch import Tensor

from indexfuzz.checks.describe import bits
from indexfuzz.report.pictures.grid import Panel, Picture, Shade, first_of
from indexfuzz.samples.buffers import poison_like
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
    output, want = look.finding.output, look.wanted()
    got = look.got.get(output)
    if got is None or output not in want or got.shape != want[output].shape or not got.numel() or not got.dim():
        return None
    expected = want[output]
    same = (bits(got) == bits(expected)) | (got.isnan() & expected.isnan() if got.dtype.is_floating_point else False)
    legal = same | look.stage.are_both_legal(look.given, output, got, expected, look.guarantees)
    before = bits(look.given.tensors[output]) if output in look.call.fills else bits(poison_like(got))
    untouched = bits(got) == before
    none = untouched & (bits(expected) == bits(poison_like(expected)))
    codes = torch.where(same, 3, torch.where(legal, 2, torch.where(untouched, 1, 0))).masked_fill(none, 4)
    axes = look.stage.axes[output]
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
