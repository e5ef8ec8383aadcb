"""An input that was written to, element by element."""

from indexfuzz.checks.describe import bits, first, text
from indexfuzz.report.pictures.grid import Panel, Picture, Shade, first_of
from indexfuzz.report.pictures.values import list_indices, list_rows
from indexfuzz.stages.places import axes_of
from indexfuzz.triage.look import Look

LEGEND = (Shade("X", "changed", "wrong"), Shade(".", "as it was given", "right"))


def draw_input(look: Look) -> Picture | None:
    """The input that a finding is about, where the launch changed it; None where it changed none."""
    name = look.finding.output
    left = look.changed.get(name) if look.finding.kind == "input-mutated" else None
    if left is None or not left.dim():
        return None
    given = look.call.tensors[name]
    wrong = bits(left) != bits(given)
    cells = ["".join("X" if changed else "." for changed in row) for row in list_rows(wrong)]
    axes = axes_of(name, given)
    labels = [", ".join(f"{axis} {i}" for axis, i in zip(axes, at, strict=False)) or name for at in list_indices(given)]
    index = first(wrong)
    note = f"{name}{list(index)} was given as {text(given[index])}, and left as {text(left[index])}"
    panel = Panel("as it was left, against what was given", tuple(labels), tuple(cells))
    return Picture(
        f"{name}, an input that was written to: {' x '.join(axes)}", (panel,), LEGEND, first_of(cells, "X"), (note,)
    )
