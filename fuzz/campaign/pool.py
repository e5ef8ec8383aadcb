"""Several processes that do the work of a campaign.

Each draws and runs chunks of the stream of its own, and tells case by case. A case is heard of at once, and learned
from in the order of the stream, so what is drawn does not depend on who is faster. A process that dies is replaced; the
case that kills two of them is left out.
"""

from collections import deque
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Self

from indexfuzz.campaign.chunk import CHUNK, Chunk
from indexfuzz.campaign.crew import Foreman
from indexfuzz.campaign.doubts import DEATH
from indexfuzz.campaign.events import Died, Smaller
from indexfuzz.campaign.jobs import Shrink, Shrunk, Tried
from indexfuzz.campaign.member import MOST_MEMORY, Done, Failed, Hire, Member, Ready
from indexfuzz.core import interrupts
from indexfuzz.subjects import journal
from indexfuzz.subjects.isolation.deaths import of_status

TICK = 0.25
"""Seconds between two looks at the time."""

AHEAD = 2
"""Chunks for each process that may be begun before an earlier one has ended: what waits for its turn takes memory."""

MOST_DEATHS = 3
"""How many processes may die one after the other before they are ready."""


ORPHANED = "the process that all others are forked from died, and took this one along"


class PoolError(Exception):
    """IndexFuzz itself failed in a process of the pool; the notes have its traceback."""


class Pool:
    """So many processes, each of which is started when there is something to do."""

    def __init__(self, hire: Hire, size: int) -> None:
        self._hire = hire
        self.size = size
        self._members: list[Member] = []
        self._again: deque[Chunk] = deque()
        self._fatal: set[tuple[int, int]] = set()
        self._deaths = 0
        self._dead_servers: set[int] = set()
        self._next = 0
        self._turn = 0
        self._waiting: dict[int, list[Tried]] = {}
        self._complete: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with interrupts.shielded():
            for member in list(self._members):
                self._let_go(member)

    @property
    def doing(self) -> str:
        """How many processes do what."""
        shrinking = sum(isinstance(member.job, Shrink) for member in self._members)
        running = sum(isinstance(member.job, Chunk) for member in self._members)
        return f"{running} of {self.size} processes run cases, {shrinking} make one smaller"

    def work(self, foreman: Foreman) -> None:
        """Keep all processes busy until there is nothing more to do."""
        try:
            while not foreman.is_long_over:
                if not foreman.cases_left:
                    self._drop_chunks(foreman)
                self._hand_out(foreman)
                busy = [member for member in self._members if member.job is not None]
                if not busy:
                    return
                ready = wait([member.connection for member in busy], TICK)
                for member in (member for member in busy if member.connection in ready):
                    with interrupts.shielded():
                        self._hear(member, foreman)
        finally:
            with interrupts.shielded():
                self._drop_chunks(foreman)

    def _hand_out(self, foreman: Foreman) -> None:
        """Give every process without a job one, and start one where all have one: what was found comes first."""
        while True:
            idle = next((member for member in self._members if member.job is None), None)
            if idle is None and len(self._members) == self.size:
                return
            job = foreman.next_shrink() or self._next_chunk(foreman)
            if job is None:
                return
            if idle is None:
                self._members.append(idle := Member(self._hire))
            idle.give(job)

    def _next_chunk(self, foreman: Foreman) -> Chunk | None:
        """The next part of the stream, unless those that are not judged yet are enough or decide what is in it."""
        if not foreman.cases_left:
            return None
        if self._again:
            return self._again.popleft()
        ahead = self._next - self._turn
        if ahead * CHUNK >= foreman.cases_left or ahead >= AHEAD * self.size:
            return None
        if (chunk := foreman.chunk(self._next)) is not None:
            self._next += 1
        return chunk

    def _hear(self, member: Member, foreman: Foreman) -> None:
        """Take what a process says, and pass it on."""
        message, job = member.next(), member.job
        if message is None:
            self._replace(member, foreman)
            return
        if isinstance(message, Failed):
            error = PoolError(message.error)
            error.add_note(message.trace)
            raise error
        if isinstance(message, Ready):
            self._deaths = 0
        elif isinstance(message, Done):
            member.job = None
            if isinstance(job, Chunk):
                self._complete.add(job.number)
            if message.memory > MOST_MEMORY:
                self._let_go(member)
        elif isinstance(message, Tried) and isinstance(job, Chunk):
            member.told += 1
            foreman.hear(message)
            self._waiting.setdefault(job.number, []).append(message)
        else:
            if isinstance(message, Smaller) and isinstance(job, Shrink):
                member.job = replace(job, finding=message.finding, case=message.case)
            foreman.hear(message)
        self._pass_on(foreman)

    def _pass_on(self, foreman: Foreman) -> None:
        """Let the foreman learn from the cases whose turn it is."""
        while True:
            for tried in self._waiting.pop(self._turn, ()):
                foreman.learn(tried)
            if self._turn not in self._complete:
                return
            self._complete.discard(self._turn)
            foreman.end_chunk()
            self._turn += 1

    def _drop_chunks(self, foreman: Foreman) -> None:
        """Let go of who runs cases; let the foreman learn from those that were run, though some before were not."""
        for member in [member for member in self._members if isinstance(member.job, Chunk)]:
            self._let_go(member)
        for number in sorted(self._waiting):
            for tried in self._waiting.pop(number):
                foreman.learn(tried)
        self._again.clear()

    def _let_go(self, member: Member) -> None:
        """End a process, whatever it does."""
        self._members.remove(member)
        member.end()
        journal.forget(member.pid)

    def _replace(self, member: Member, foreman: Foreman) -> None:
        """Go on after the death of a process: once more with the case that it died of, then without."""
        self._members.remove(member)
        death, job, is_orphaned = of_status(member.bury()), member.job, member.is_orphaned
        file = journal.bury(member.pid)
        self._deaths += not (is_orphaned and member.server in self._dead_servers)
        if is_orphaned:
            death = replace(death, words=ORPHANED)
            self._dead_servers.add(member.server)
        if self._deaths > MOST_DEATHS:
            raise PoolError(f"{self._deaths} processes in a row have ended before they could run a case: {death.words}")
        if isinstance(job, Shrink):
            foreman.hear(Died(death.words, file))
            doubt = f"{death.words} {DEATH}"
            foreman.hear(Shrunk(job.finding.signature, job.finding, job.case, job.seconds, doubt))
        elif job is not None:
            place = (job.number, member.told)
            again = place in self._fatal and not is_orphaned
            if not is_orphaned:
                self._fatal.add(place)
            foreman.hear(Died(death.words, file, again=again))
            self._again.append(replace(job, start=member.told + again))
