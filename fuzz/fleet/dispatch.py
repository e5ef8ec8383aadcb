"""Hand out the slices of a campaign, and hear of them, whoever runs them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from indexfuzz.core import interrupts
from indexfuzz.fleet.budget import Budget
from indexfuzz.fleet.slices import Lost, Order, Result, Slice

TICK = 1.0
"""Seconds between two looks at the time."""

GRACE = 60.0
"""Seconds that slices have for saving what they found, once they are asked to end."""


class SliceError(Exception):
    """A slice that no machine can run as it was asked for. One sentence."""


class Machines(Protocol):
    """Run slices, in whatever order."""

    def __enter__(self) -> Self:
        """Get ready."""

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of everything."""

    def submit(self, order: Order, part: Slice) -> None:
        """Run a slice as soon as there is room for it."""

    def wait(self, seconds: float) -> list[Result | Lost]:
        """What has ended meanwhile; returns as soon as something has.

        Raises SliceError.
        """

    def stop(self) -> None:
        """Ask all that runs to end soon, and forget what has not begun."""

    @property
    def is_busy(self) -> bool:
        """Whether anything was submitted that has not been heard of."""


@dataclass
class Tally:
    """What the slices of a campaign did. `interrupted` is the signal that ended it, or 0."""

    results: list[Result] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    interrupted: int = 0

    @property
    def cases(self) -> int:
        """Cases that were run."""
        return sum(result.cases for result in self.results)

    @property
    def stages(self) -> int:
        """How often a stage ran."""
        return sum(result.stages for result in self.results)


def dispatch(
    order: Order,
    budget: Budget,
    machines: Machines,
    tell: Callable[[Result | Lost], None],
    tick: Callable[[], None] = lambda: None,
) -> Tally:
    """Run all slices of an order, and tell of each. Signals end that soon.

    Raises SliceError where a slice cannot be run by any machine; the others have been asked to end then.
    """
    tally = Tally()
    try:
        with interrupts.unmasked():
            for ended in _run_all(order, budget, machines, tick):
                _take(ended, tally, budget)
                tell(ended)
    except interrupts.Interrupted as interrupted:
        tally.interrupted = interrupted.number
        interrupts.end()
        for ended in _stop(machines):
            _take(ended, tally, budget)
            tell(ended)
    except SliceError:
        for _ in _stop(machines):
            pass
        raise
    return tally


def _run_all(order: Order, budget: Budget, machines: Machines, tick: Callable[[], None]) -> Iterator[Result | Lost]:
    submitted = 0
    while True:
        while submitted < order.slices and (part := budget.next_slice()) is not None:
            machines.submit(order, part)
            submitted += 1
        if not machines.is_busy:
            return
        yield from machines.wait(TICK)
        interrupts.check()
        tick()


def _stop(machines: Machines) -> Iterator[Result | Lost]:
    """Have everything end, and wait for what that still tells."""
    machines.stop()
    waited = 0.0
    while machines.is_busy and waited < GRACE:
        told = machines.wait(TICK)
        waited += 0.0 if told else TICK
        yield from told


def _take(ended: Result | Lost, tally: Tally, budget: Budget) -> None:
    if isinstance(ended, Lost):
        budget.hear(ended.number, None)
        tally.lost.append(ended)
    else:
        if ended.error:
            raise SliceError(f"slice {ended.number} on {ended.node}: {ended.error}")
        budget.hear(ended.number, ended)
        tally.results.append(ended)
