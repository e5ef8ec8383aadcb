"""The keys that two schedules of the same tokens leave, key by key."""

from torch import Tensor

from indexfuzz.checks.describe import bits
from indexfuzz.report.pictures.grid import Panel, Picture, Shade
from indexfuzz.triage.twin import ScheduleLook

LEGEND = (
    Shade("X", "other bytes under another schedule", "wrong"),
    Shade(".", "the same bytes", "right"),
)

SCALES = "cache_scales"


def draw_schedules(look: ScheduleLook) -> Picture:
    """Which dims of which keys have other bytes where the same tokens came in other steps; the scale stands last."""
    finding, first = look.finding, look.one[look.parted]
    cells = tuple(
        "".join(_compare(part, look.other[key][name]) for name, part in parts.items())
        for key, parts in look.one.items()
    )
    labels = tuple(f"request {request}, key {key}" for request, key in look.one)
    row, names = [*look.one].index(look.parted), [*first]
    before = sum(first[name].numel() for name in names[: names.index(finding.output)])
    column = before + (finding.index[1] if len(finding.index) > 1 else 0)
    place = "scale" if finding.output == SCALES else f"dim {column}"
    notes = (
        f"{labels[row]}, {place}: {finding.want} in this session, {finding.got} under the other schedule",
        *(
            f"request {number}: its tokens came {one} here, {other} there"
            for number, (one, other) in look.chunks.items()
        ),
    )
    panel = Panel("this session, against another schedule of the same tokens", labels, cells)
    title = f"keys: key x dim{', then the scale' if SCALES in first else ''}"
    return Picture(title, (panel,), LEGEND, (row, column), notes)


def _compare(one: Tensor, other: Tensor) -> str:
    return "".join("X" if differs else "." for differs in (bits(one) != bits(other)).flatten().tolist())
