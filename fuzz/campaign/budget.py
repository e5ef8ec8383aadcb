"""How long a campaign may take, and which part of that goes into making cases smaller."""

import math
import time
from collections.abc import Callable

from indexfuzz.campaign.settings import Settings

SHRINKING = 0.5
"""The share of a campaign's time that may go into making cases smaller."""

LATE = 0.2
"""The share of its time that a campaign may take longer than it should, to make smaller what it found at its end."""

SHRINKING_SECONDS = 60.0
"""For how long cases are made smaller in a campaign that is not limited in time."""

PATIENCE = 300.0
"""Seconds for which a campaign waits for its first case, on a machine where processes take long to start."""


class Budget:
    """Tells when a campaign has drawn enough, and for how long a case may be made smaller.

    Its time counts from the end of the first case: a machine that is slow to start shall not leave none for the cases.
    """

    def __init__(self, wanted: Settings, workers: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._each = wanted.minimise_seconds
        self._seconds = math.inf if wanted.seconds is None else wanted.seconds
        shrinking = SHRINKING_SECONDS if wanted.seconds is None else SHRINKING * wanted.seconds
        self._shrinking = workers * max(shrinking, self._each if wanted.seconds is None else 0.0)
        self._clock = clock
        self._started = clock()
        self._waited: float | None = None

    def begin(self) -> None:
        """Take note that a case has been run."""
        if self._waited is None:
            self._waited = self.elapsed

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    @property
    def is_over(self) -> bool:
        """Whether no more cases shall be drawn."""
        return self._used >= self._seconds

    @property
    def left(self) -> float:
        """Seconds until nothing more shall be done at all."""
        return self._seconds * (1 + LATE) - self._used

    @property
    def is_long_over(self) -> bool:
        """Whether nothing more shall be done at all."""
        return self.left <= 0

    def grant(self, waiting: int) -> float:
        """Seconds for making one case smaller, where so many wait for that."""
        return max(0.0, min(self._each, self._shrinking / waiting, self.left / waiting))

    def use(self, seconds: float) -> None:
        """Take note of seconds that were used for that."""
        self._shrinking -= seconds

    @property
    def _used(self) -> float:
        """Seconds that count."""
        return self.elapsed - (min(self.elapsed, PATIENCE) if self._waited is None else self._waited)
