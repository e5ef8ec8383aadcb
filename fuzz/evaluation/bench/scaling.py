"""Cases per second of a campaign with several processes, once all of them are warm."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from indexfuzz.campaign.chunk import CHUNK
from indexfuzz.campaign.events import CaseRun, Event
from indexfuzz.campaign.loop import run_whole
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


@dataclass(frozen=True)
class Compiling:
    """What a campaign with so many processes did on a device that compiles: `cases` of `kernels` that differ.

    It took `cold` seconds from the first case to the last with an empty cache, and `warm` seconds with all of them in
    it.
    """

    workers: int
    cores: int
    cases: int
    kernels: int
    cold: float
    warm: float


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
    run_whole(wanted, counting.hear, Pool(Hire(setup, journal=False, drawing={"seed": seed}), workers))
    return Rate(workers, os.cpu_count() or 1, counting.cases, counted)


class Stopwatch:
    """The time between the first case that a campaign hears of and the last."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: list[float] = []

    def hear(self, event: Event) -> None:
        """Note when a case was heard of."""
        if isinstance(event, CaseRun):
            self._times[1:] = [self._clock()]

    @property
    def seconds(self) -> float:
        """Between the two; 0 where there were not two."""
        return self._times[-1] - self._times[0] if self._times else 0.0


def measure_compiling(workers: int, seed: int, device: str, cases: int | None = None) -> Compiling:
    """Run the same campaign twice with a cache of its own; without `cases`, one part of the stream for each process."""
    setup = Setup(device=device)
    subject = prepare(setup).subject
    wanted = Settings(subject, seed=seed, cases=cases or workers * CHUNK * subject.facts.values_per_shape)
    seconds = []
    with TemporaryDirectory() as cache:
        environment = dict(os.environ) | {"TRITON_CACHE_DIR": cache}
        hire = Hire(setup, journal=False, drawing={"seed": seed}, environment=environment)
        for _ in range(2):
            stopwatch = Stopwatch()
            ran = run_whole(wanted, stopwatch.hear, Pool(hire, workers))
            seconds.append(stopwatch.seconds)
        kernels = sum(1 for _ in Path(cache).rglob("*.cubin"))
    return Compiling(workers, os.cpu_count() or 1, ran.cases, kernels, *seconds)
