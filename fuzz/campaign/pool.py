"""Several processes that do the work of a campaign.

One draws a chunk of the stream, and those that are free share its cases: what may be drawn next hangs on what these
show. A case is heard of at once, and learned from in the order of the stream, so what is drawn does not depend on who
is faster. Who would have to wait for others runs cases beside the stream. A process that dies is replaced; the case
that kills two of them is left out.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Self

from indexfuzz.campaign.chunk import CHUNK, Chunk, is_beside
from indexfuzz.campaign.crew import Foreman
from indexfuzz.campaign.doubts import DEATH
from indexfuzz.campaign.events import Died, Smaller
from indexfuzz.campaign.jobs import Shrink, Shrunk, Slice, Tried
from indexfuzz.campaign.member import MOST_MEMORY, Done, Drew, Failed, Hire, Job, Member, Ready
from indexfuzz.campaign.turns import Turns
from indexfuzz.core import interrupts
from indexfuzz.subjects import journal
from indexfuzz.subjects.isolation.deaths import of_status

TICK = 0.25
"""Seconds between two looks at the time."""

AHEAD = 2
"""Chunks for each process that may be begun before an earlier one has ended: what waits for its turn takes memory."""

MOST_DEATHS = 3
"""How many processes may die one after the other before they are ready, or while they draw the same chunk."""


ORPHANED = "the process that all others are forked from died, and took this one along"


class PoolError(Exception):
    """IndexFuzz itself failed in a process of the pool; the notes have its traceback."""


class Pool:
    """So many processes, each of which is started when there is something to do."""

    def __init__(self, hire: Hire, size: int) -> None:
        self._hire = hire
        self.size = size
        self.tick: Callable[[], None] = lambda: None
        self._members: list[Member] = []
        self._turns = Turns()
        self._next = 0
        self._drawn_beside = 0
        self._again: deque[Chunk] = deque()
        self._undrawn = Counter[int]()
        self._fatal: set[tuple[int, int]] = set()
        self._deaths = 0
        self._dead_servers: set[int] = set()

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
        running = sum(isinstance(member.job, Chunk | Slice) for member in self._members)
        return f"{running} of {self.size} processes run cases, {shrinking} make one smaller"

    def work(self, foreman: Foreman) -> None:
        """Keep all processes busy until there is nothing more to do."""
        try:
            while not foreman.is_long_over:
                if not foreman.cases_left:
                    self._hear_what_is_said(foreman)
                    self._drop_chunks(foreman)
                self._hand_out(foreman)
                busy = [member for member in self._members if member.job is not None]
                if not busy:
                    return
                with interrupts.shielded():
                    self.tick()
                ready = wait([member.connection for member in busy], TICK)
                for member in (member for member in busy if member.connection in ready):
                    with interrupts.shielded():
                        self._hear(member, foreman)
        finally:
            with interrupts.shielded():
                self._drop_chunks(foreman)

    def _hand_out(self, foreman: Foreman) -> None:
        """Give every process without a job one, and start one where all have one: what was found comes first."""
        for member in [member for member in self._members if member.job is None and not member.is_alive]:
            with interrupts.shielded():
                self._replace(member, foreman)
        while True:
            idle = next((member for member in self._members if member.job is None), None)
            if idle is None and len(self._members) == self.size:
                return
            job = foreman.next_shrink() or self._next_cases(foreman)
            if job is None:
                return
            if idle is None:
                self._members.append(idle := Member(self._hire))
            idle.give(job)

    def _next_cases(self, foreman: Foreman) -> Job | None:
        """Cases that are drawn, as many as come to each process; or else a chunk to draw; or what nobody waits for."""
        if not foreman.cases_left:
            return None
        turns = self._turns
        drawn = turns.take(-(-turns.waiting // self.size))
        return drawn or self._next_chunk(foreman) or turns.take_beside() or self._next_beside(foreman)

    def _next_chunk(self, foreman: Foreman) -> Chunk | None:
        """The next part of the stream, unless those that are not over yet are enough or decide what is in it."""
        if self._again:
            return self._again.popleft()
        ahead = self._next - self._turns.chunk
        if ahead * CHUNK >= foreman.cases_left or ahead >= AHEAD * self.size:
            return None
        if (chunk := foreman.chunk(self._next)) is not None:
            self._next += 1
        return chunk

    def _next_beside(self, foreman: Foreman) -> Chunk | None:
        """Another chunk beside the stream."""
        self._drawn_beside += 1
        return foreman.chunk_beside(self._drawn_beside)

    def _hear(self, member: Member, foreman: Foreman) -> None:
        """Take what a process says, and pass it on."""
        message, job = member.next(), member.job
        if message is None:
            self._replace(member, foreman)
        elif isinstance(message, Failed):
            error = PoolError(message.error)
            error.add_note(message.trace)
            raise error
        elif isinstance(message, Ready):
            member.begin()
            self._deaths = 0
        elif isinstance(message, Done):
            member.job = None
            if message.memory > MOST_MEMORY:
                self._let_go(member)
        elif isinstance(message, Drew):
            self._turns.add(message.chunk, message.shapes)
            member.job = Slice(message.chunk, 0, ())  # nothing is to be done again, should it die now
        elif isinstance(message, Tried) and isinstance(job, Slice):
            self._turns.tell(job.chunk, job.place + member.told, message)
            member.told += 1
            foreman.hear(message)
            if is_beside(job.chunk):
                foreman.count(message)
        else:
            if isinstance(message, Smaller) and isinstance(job, Shrink):
                member.job = replace(job, finding=message.finding, case=message.case)
            foreman.hear(message)
        self._turns.pass_on(foreman)

    def _hear_what_is_said(self, foreman: Foreman) -> None:
        """Hear of all cases that were run until now, before who runs the next ones is let go."""
        for member in list(self._members):
            while member in self._members and isinstance(member.job, Slice) and member.connection.poll():
                with interrupts.shielded():
                    self._hear(member, foreman)

    def _drop_chunks(self, foreman: Foreman) -> None:
        """Let go of who draws or runs cases; let the foreman learn from what was run, though some before it was not."""
        for member in [member for member in self._members if isinstance(member.job, Chunk | Slice)]:
            self._let_go(member)
        self._turns.end(foreman)
        self._again.clear()

    def _let_go(self, member: Member) -> None:
        """End a process, whatever it does."""
        self._members.remove(member)
        member.end()
        journal.forget(member.pid)

    def _replace(self, member: Member, foreman: Foreman) -> None:
        """Go on after the death of a process: with what it did once more, or without the case that it died of."""
        self._members.remove(member)
        death, job, is_orphaned = of_status(member.bury()), member.job, member.is_orphaned
        runs = member.is_ready and isinstance(job, Slice) and member.told < len(job.cases)
        file = journal.bury(member.pid) if runs else ""
        journal.forget(member.pid)
        self._deaths += not (member.is_ready or (is_orphaned and member.server in self._dead_servers))
        if is_orphaned:
            death = replace(death, words=ORPHANED)
            self._dead_servers.add(member.server)
        if self._deaths > MOST_DEATHS:
            raise PoolError(f"{self._deaths} processes in a row have ended before they could run a case: {death.words}")
        if isinstance(job, Slice):
            place = (job.chunk, job.place + member.told)
            strikes = runs and not is_orphaned
            again = strikes and place in self._fatal
            foreman.hear(Died(death.words, file, again=again))
            if again:
                self._turns.tell(*place, None)
            elif strikes:
                self._fatal.add(place)
            self._turns.put(job.after(member.told + again))
            return
        foreman.hear(Died(death.words, file))
        if isinstance(job, Shrink):
            doubt = f"{death.words} {DEATH}"
            foreman.hear(Shrunk(job.finding.signature, job.finding, job.case, job.seconds, doubt))
        elif job is not None and not is_beside(job.number):
            self._undrawn[job.number] += not is_orphaned
            if (times := self._undrawn[job.number]) > MOST_DEATHS:
                raise PoolError(f"{times} processes have ended while they drew part {job.number}: {death.words}")
            self._again.append(job)
