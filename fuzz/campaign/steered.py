"""The cases of a chunk that are steered: searched for by rehearsing them, or else by guesses at what moves operands."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from indexfuzz.campaign.chunk import Chunk
from indexfuzz.campaign.settings import Settings
from indexfuzz.core.case import Case
from indexfuzz.core.forked import call_forked
from indexfuzz.core.rng import random_bytes
from indexfuzz.core.stage_names import FORWARD
from indexfuzz.generation import searching, steering
from indexfuzz.generation.choices import Choices
from indexfuzz.generation.scouting import first_goals, send_out, take_rare
from indexfuzz.generation.searching import Found
from indexfuzz.generation.solving import know_moves
from indexfuzz.subjects.isolation.lifeline import die_with

SECONDS = 300
"""CPU seconds after which the copy that rehearses is taken for hung, and cases are steered by guesses.

Hundreds of times what a chunk takes: its rehearsals are counted, and what comes up in each, so that no case depends on
how fast a machine is.
"""


@dataclass(frozen=True)
class Drawn:
    """A case, and the stages that it shall be put to; all where none are named."""

    case: Case
    only: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Steered:
    """Cases on the way to each of some goals, and others that show what few have."""

    found: list[list[Drawn]]
    rare: list[Drawn]


def steer_cases(
    wanted: Settings, key: int, fresh: Sequence[Case], chunk: Chunk, others: Sequence[Case] = ()
) -> Steered:
    """Cases on the way to the goals of a chunk, from as many fresh ones and a key that decides how.

    What was searched for is put to the stages alone that make the decision, so that many cases can be, and to all where
    it is the whole indexer; nothing is given where a search was in vain. The fresh cases and `others` are rehearsed,
    and those that show what few have are given, too. Launchers that are called without their kernels may keep what is
    wrong then, so a copy of this process calls them.
    """
    is_pinned = wanted.preset is not None
    parent = os.getpid()

    def find() -> tuple[list[tuple[Case, frozenset[str]]], list[Found | None]]:
        die_with(parent)
        torch.set_num_threads(1)  # there are no others in a copy
        rehearse = wanted.subject.rehearse
        scouts = send_out((*fresh, *others), rehearse, wanted.only)
        found = []
        for place, (case, goal) in enumerate(zip(fresh, chunk.goals or first_goals(scouts), strict=False)):
            choices = Choices(random_bytes(key, f"searched {place}", searching.DECISIONS))
            found.append(searching.search(case, goal, rehearse, choices, scouts, is_pinned=is_pinned))
        return take_rare(scouts, chunk.shown), found

    know_moves()
    searched = call_forked(find, SECONDS) if wanted.subject.rehearses else None
    rare, found = searched or ([], [None] * len(chunk.goals))
    goals = chunk.goals or (None,) * len(found)
    steered = []
    for place, (case, goal, there) in enumerate(zip(fresh, goals, found, strict=False)):
        if there is not None:
            steered.append(_among(wanted, there.cases, there.stages))
        elif goal is not None:
            choices = Choices(random_bytes(key, f"steered {2 * place + 1}", steering.DECISIONS))
            steered.append([Drawn(steering.steer(case, goal, choices, is_pinned=is_pinned), wanted.only)])
    return Steered(steered, [one for case, stages in rare for one in _among(wanted, (case,), stages)])


def _among(wanted: Settings, cases: Iterable[Case], stages: frozenset[str]) -> list[Drawn]:
    """Cases that shall be put to some stages, as far as these are wanted; to all of them for the whole indexer's sake.

    It is run where no stages are named, behind them.
    """
    if FORWARD in stages and not wanted.only:
        return [Drawn(case) for case in cases]
    among = stages & wanted.only if wanted.only else stages
    return [Drawn(case, among) for case in cases if among]
