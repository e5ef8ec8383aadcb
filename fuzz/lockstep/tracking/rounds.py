"""Rounds of loops, counted for whoever asks: what bounds them ends a kernel at the same round on every machine."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from indexfuzz.lockstep.tracking.violations import UnsupportedFeature


@dataclass
class Rounds:
    """How many rounds the loops of kernels have run, in each group of programs that run alike, and how many may."""

    most: float
    count: int = 0

    @property
    def is_over(self) -> bool:
        """Whether more were asked for than may be."""
        return self.count > self.most


_counted: list[Rounds] = []


@contextmanager
def count_rounds(most: float = math.inf) -> Iterator[Rounds]:
    """Count the rounds of all loops in here, but those that are unrolled.

    A kernel whose loops come to more than `most`, all launches together, raises UnsupportedFeature.
    """
    rounds = Rounds(most)
    _counted.append(rounds)
    try:
        yield rounds
    finally:
        _counted.remove(rounds)


def note_round() -> None:
    """Take note that a loop goes on for another round."""
    for rounds in _counted:
        rounds.count += 1
        if rounds.is_over:
            raise UnsupportedFeature(f"more than {rounds.most:,.0f} rounds of loops")
