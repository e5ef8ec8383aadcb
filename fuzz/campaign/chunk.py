"""A part of the stream of cases. Its number, the seed, the shard and its goals determine what is in it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imports torch, which the command line does without until it runs something
    from indexfuzz.generation.goals import Ends, Goal

CHUNK = 11
"""Shapes that are drawn together, the first of which is mostly left out: enough for Hypothesis to vary them, few
enough for what they show to be known soon."""

MOST_BEHIND = 32
"""A chunk knows nothing of so many before it, at most: as many may run at the same time without waiting."""


@dataclass(frozen=True)
class Chunk:
    """The cases of a chunk are to be drawn, some of them steered to the goals.

    `shown` says how many cases have ended conditions in each way, of those that it knows of.
    """

    number: int
    goals: "tuple[Goal, ...]" = ()
    shown: "Ends" = field(default_factory=dict)


def is_beside(chunk: int) -> bool:
    """Whether a chunk of this number stands beside the stream: nothing that is drawn later depends on it."""
    return chunk < 0


def known_to(chunk: int, *, is_long: bool) -> int:
    """How many chunks, from the first on, a chunk draws its goals from: what they are must not depend on who is faster.

    The last two before it and an eighth of all are not among them, so that ever more processes may run without waiting;
    where chunks are long, as on a GPU, which compiles each shape, as many as ever are left out from the start.
    """
    return max(chunk - (MOST_BEHIND if is_long else min(2 + chunk // 8, MOST_BEHIND)), 0)
