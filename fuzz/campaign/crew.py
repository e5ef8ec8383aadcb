"""Who does the work of a campaign: this process alone, or several (pool.py)."""

from collections.abc import Callable
from itertools import count
from types import TracebackType
from typing import Protocol, Self

from indexfuzz.campaign.chunk import Chunk
from indexfuzz.campaign.drawing import Recent, cases_of_chunk
from indexfuzz.campaign.jobs import Report, Shrink, Tried, make_smaller, run_case
from indexfuzz.campaign.settings import Settings
from indexfuzz.core import interrupts


class Foreman(Protocol):
    """Says what is to be done, hears what comes of it, and learns from cases in the order of the stream."""

    @property
    def cases_left(self) -> float:
        """How many more cases shall be run; 0 ends the drawing."""

    @property
    def is_long_over(self) -> bool:
        """Whether nothing more shall be done at all."""

    def chunk(self, number: int) -> Chunk | None:
        """A part of the stream with its goals; None as long as too little was heard of for these to be known."""

    def chunk_beside(self, number: int) -> Chunk | None:
        """A chunk beside the stream, the first is 1, for who would wait; None where every case counts in its order."""

    def next_shrink(self) -> Shrink | None:
        """The next case to make smaller."""

    def hear(self, report: Report) -> None:
        """Take note of what has come of a job, as soon as it has."""

    def learn(self, tried: Tried) -> None:
        """Take note of a case that was heard of when it is its turn in the stream, whoever ran it."""

    def count(self, tried: Tried) -> None:
        """Take note of a case beside the stream, which nothing that is drawn later may depend on."""

    def end_chunk(self) -> None:
        """Take note that all cases of the next part of the stream have been learned from."""


class Crew(Protocol):
    """Does the work, and calls `tick` a few times a second where it can, also while there is nothing to hear."""

    tick: Callable[[], None]

    @property
    def size(self) -> int:
        """How many processes work."""

    def __enter__(self) -> Self:
        """Get ready."""

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of everything, whatever is being done."""

    @property
    def doing(self) -> str:
        """What is being done at the moment, in a few words; empty where there is nothing to say."""

    def work(self, foreman: Foreman) -> None:
        """Work until there is nothing more to do."""


class Alone:
    """This process."""

    size = 1
    doing = ""

    def __init__(self, wanted: Settings) -> None:
        self._wanted = wanted
        self.tick: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def work(self, foreman: Foreman) -> None:
        """Run a case, make small what it showed, run the next."""

        def tell(report: Report) -> None:
            foreman.hear(report)
            if isinstance(report, Tried):
                foreman.learn(report)
            interrupts.check()

        recent = Recent()
        for number in count():
            if (chunk := foreman.chunk(number)) is None:
                raise AssertionError("who works alone has told of all before")
            for drawn in cases_of_chunk(self._wanted, chunk):
                if not foreman.cases_left:
                    return
                if not recent.add(drawn.case):
                    continue
                interrupts.check()
                for report in run_case(self._wanted, drawn):
                    tell(report)
                while (shrink := foreman.next_shrink()) is not None:
                    make_smaller(self._wanted, shrink, tell)
            foreman.end_chunk()
            if not foreman.cases_left:
                return
