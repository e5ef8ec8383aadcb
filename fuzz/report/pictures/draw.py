"""Which pictures a finding gets."""

from collections.abc import Callable
from dataclasses import replace

from indexfuzz.oracles import replay, streams, tuning
from indexfuzz.report.pictures.cache import draw_cache
from indexfuzz.report.pictures.extents import draw_extents
from indexfuzz.report.pictures.grid import Picture
from indexfuzz.report.pictures.inputs import draw_input
from indexfuzz.report.pictures.lanes import draw_lanes
from indexfuzz.report.pictures.logits import draw_logits
from indexfuzz.report.pictures.memory import draw_accesses
from indexfuzz.report.pictures.race import draw_race
from indexfuzz.report.pictures.replayed import draw_replayed
from indexfuzz.report.pictures.schedules import draw_schedules
from indexfuzz.report.pictures.selection import draw_selection
from indexfuzz.report.pictures.unwritten import draw_unwritten
from indexfuzz.report.pictures.values import draw_values
from indexfuzz.report.pictures.whole import draw_whole
from indexfuzz.stages.base import Shown
from indexfuzz.triage.look import Look
from indexfuzz.triage.looking import Seen
from indexfuzz.triage.replayed import ReplayLook
from indexfuzz.triage.repro_check import RAISED
from indexfuzz.triage.twin import ScheduleLook
from indexfuzz.triage.whole import WholeLook

DRAW: dict[Shown, Callable[[Look], Picture | None]] = {
    "cache": draw_cache,
    "logits": draw_logits,
    "selection": draw_selection,
    "values": draw_values,
}


ACCESSES = (draw_race, draw_unwritten, draw_lanes, draw_accesses)
"""What an access of a kernel did to memory."""

ONLY_THERE = {
    replay.KIND: "captures launches in a graph",
    tuning.KIND: "launches kernels with other warps",
    streams.KIND: "runs launches beside each other",
}
"""Kinds that lockstep does not show -> what it does not do."""


def draw(look: Seen) -> tuple[Picture, ...]:
    """What went wrong around the buffers and to an input, if anything did, and the output beside what it should be.

    The pages of the cache are drawn with what lies behind them, which shows both. Of a session, it is said when it was.
    """
    drawn: tuple[Picture | None, ...]
    if isinstance(look, WholeLook):
        drawn = (*(each(look.violated) for each in ACCESSES if look.violated), draw_whole(look))
    elif isinstance(look, ReplayLook):
        drawn = (draw_replayed(look),)
    elif isinstance(look, ScheduleLook):
        drawn = (draw_schedules(look), *(draw(look.wrong) if look.wrong else ()))
    elif look.finding.kind == "shape":
        drawn = (draw_extents(look),)
    else:
        output = DRAW[look.stage.shown](look)
        is_whole = output and look.stage.shown == "cache"
        draws = (draw_race,) if is_whole else (*ACCESSES, draw_input)
        drawn = (*(each(look) for each in draws), output)
    when = (look.moment,) if look.moment else ()
    return tuple(replace(picture, notes=(*picture.notes, *when)) for picture in drawn if picture)


def explain_absence(kind: str, look: Seen | None) -> str:
    """Why there is no picture of a finding, in a sentence."""
    if kind in RAISED:
        return "There is nothing to draw: the launch ends without a result."
    if kind == "promise":
        return "There is nothing to draw: what the kernel tells the compiler is wrong, no value is."
    if look is None and kind in ONLY_THERE:
        return f"There is no picture: only an NVIDIA GPU {ONLY_THERE[kind]}."
    if look is None:
        return "There is no picture: it takes more than one launch of the stage in lockstep to show this."
    return "There is no picture: this is about no element of an output, and no byte of a tensor."
