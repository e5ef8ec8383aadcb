"""Cases per second of a campaign with several processes, once all of them are warm."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from indexfuzz.campaign.events import CaseRun, Event
from indexfuzz.campaign.loop import Campaign
from indexfuzz.campaign.member import Hire
from indexfuzz.campaign.pool import Pool
from indexfuzz.campaign.settings import Settings
from indexfuzz.core.setup import Setup
from indexfuzz.subjects.open import prepare

WARM = 15.0
"""Seconds in which cases do not count yet."""

COUNTED = 30.0
"""Seconds in which they do."""


@dataclass(frozen=True)
class Rate:
    """What a campaign with so many processes ran in so many seconds, on a machine with so many cores."""

    workers: int
    cores: int
    cases: int
    seconds: float

    @property
    def cases_per_second(self) -> float:
        """Of all processes together."""
        return self.cases / self.seconds


class Counting:
    """Counts the cases that a campaign hears of between two points in time."""

    def __init__(self, warm: float, counted: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first = clock() + warm
        self._last = self._first + counted
        self.cases = 0

    def hear(self, event: Event) -> None:
        """Count a case in time."""
        self.cases += isinstance(event, CaseRun) and self._first <= self._clock() < self._last


def measure_rate(workers: int, seed: int, warm: float = WARM, counted: float = COUNTED) -> Rate:
    """Run a campaign of the built-in kernels, and count."""
    setup = Setup()
    wanted = Settings(prepare(setup).subject, seed=seed, seconds=warm + counted)
    counting = Counting(warm, counted)
    Campaign(wanted, counting.hear, Pool(Hire(setup, journal=False, drawing={"seed": seed}), workers)).run()
    return Rate(workers, os.cpu_count() or 1, counting.cases, counted)
