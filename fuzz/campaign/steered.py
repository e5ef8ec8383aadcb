"""The cases of a chunk that are steered: searched for by rehearsing them, or else by guesses at what moves operands."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from indexfuzz.campaign.settings import Settings
from indexfuzz.core.case import Case
from indexfuzz.core.forked import call_forked
from indexfuzz.core.rng import random_bytes
from indexfuzz.generation import searching, steering
from indexfuzz.generation.choices import Choices
from indexfuzz.generation.goals import Goal
from indexfuzz.generation.levers import know_movers
from indexfuzz.generation.searching import Found
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


def steer_cases(wanted: Settings, key: int, fresh: Sequence[Case], goals: Sequence[Goal]) -> list[list[Drawn]]:
    """Cases on the way to each of some goals, from as many fresh ones and a key that decides how.

    What was searched for is put to the stages alone that make the decision, so that many cases can be; a fresh one
    stays where a search was in vain. Launchers that are called without their kernels may keep what is wrong then, so a
    copy of this process calls them.
    """
    is_pinned = wanted.preset is not None
    pairs = list(zip(fresh, goals, strict=False))

    parent = os.getpid()

    def find() -> list[Found | None]:
        die_with(parent)
        torch.set_num_threads(1)  # there are no others in a copy
        found = []
        for place, (case, goal) in enumerate(pairs):
            choices = Choices(random_bytes(key, f"searched {place}", searching.DECISIONS))
            found.append(searching.search(case, goal, wanted.subject.rehearse, choices, is_pinned=is_pinned))
        return found

    know_movers()
    searched = call_forked(find, SECONDS) if pairs and wanted.subject.rehearses else None
    steered = []
    for place, (case, goal) in enumerate(pairs):
        found = searched[place] if searched else None
        if found is None:
            choices = Choices(random_bytes(key, f"steered {2 * place + 1}", steering.DECISIONS))
            steered.append([Drawn(steering.steer(case, goal, choices, is_pinned=is_pinned), wanted.only)])
        elif not found.cases or (wanted.only and wanted.only.isdisjoint(found.stages)):
            steered.append([Drawn(case, wanted.only)])
        else:
            stages = found.stages & wanted.only if wanted.only else found.stages
            steered.append([Drawn(each, stages) for each in found.cases])
    return steered
