"""The keys that two schedules of the same tokens leave, key by key."""

from indexfuzz.checks.describe import bits
from indexfuzz.report.pictures.grid import Panel, Picture, Shade, first_of
from indexfuzz.triage.twin import ScheduleLook

LEGEND = (
    Shade("X", "other bytes under another schedule", "wrong"),
    Shade(".", "the same bytes", "right"),
)


def draw_schedules(look: ScheduleLook) -> Picture:
    """Which dims of which keys have other bytes where the same tokens came in other steps."""
    cells = tuple(
        "".join("X" if differs else "." for differs in (bits(key) != bits(look.other[name])).tolist())
        for name, key in look.one.items()
    )
    labels = tuple(f"request {request}, key {key}" for request, key in look.one)
    finding = look.finding
    mark = first_of(cells, "X")
    where = f"{labels[mark[0]]}, dim {mark[1]}: " if mark else ""
    notes = (
        f"{where}{finding.want} in this session, {finding.got} under the other schedule",
        *(
            f"request {number}: its tokens came {one} here, {other} there"
            for number, (one, other) in look.chunks.items()
        ),
    )
    panel = Panel("this session, against another schedule of the same tokens", labels, cells)
    return Picture("keys: key x dim", (panel,), LEGEND, mark, notes)
