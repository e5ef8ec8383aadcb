"""No process waits for others: a campaign of many processes in time that is counted, not waited for."""

import heapq
import math
import random
from collections import deque
from itertools import count

import pytest

from indexfuzz.campaign import pool as pool_module
from indexfuzz.campaign.chunk import Chunk, known_to
from indexfuzz.campaign.jobs import Tried
from indexfuzz.campaign.member import Done, Drew, Ready
from indexfuzz.campaign.pool import Pool
from indexfuzz.campaign.steered import Drawn

LOAD, DRAW, CASE, SLOW = 1.0, 0.9, 0.08, 55.0
"""Seconds that a process takes to load, to draw a chunk, to run a case, and to run the first one that compiles."""

SECONDS = 120.0


class Time:
    """Seconds that have passed, and what processes are going to say, when."""

    def __init__(self):
        self.now, self._coming, self._number = 0.0, [], count()

    def say(self, when, process, message):
        heapq.heappush(self._coming, (when, next(self._number), process, message))

    def wait(self, processes, _tick):
        """Go on to when one of the processes says something."""
        while not any(process.said for process in processes):
            self.now, _, process, message = heapq.heappop(self._coming)
            process.said.append(message)
        return [process for process in processes if process.said]


class Worker:
    """A process that takes as long as it says for what it is given, but runs nothing."""

    pid, is_alive = 0, True

    def __init__(self, time):
        self.job, self.is_ready, self.said, self.busy = None, False, deque(), 0.0
        self._time, self._compiles = time, True
        time.say(time.now + LOAD, self, Ready())

    @property
    def connection(self):
        return self

    def poll(self):
        return bool(self.said)

    def next(self):
        return self.said.popleft()

    def give(self, job):
        self.job, self.told = job, 0
        if self.is_ready:
            self._do(job)

    def begin(self):
        self.is_ready = True
        self._do(self.job)

    def end(self):
        self.is_alive = False

    def _do(self, job):
        now = self._time.now
        if isinstance(job, Chunk):
            now += DRAW
            self._time.say(now, self, Drew(job.number, tuple((Drawn((job.number, i)),) for i in range(28))))
        else:
            for drawn in job.cases:
                is_slow = self._compiles and random.Random(str(drawn.case)).random() < 1 / 200
                self._compiles &= not is_slow
                now += SLOW if is_slow else CASE
                self._time.say(now, self, Tried(drawn.case, None))
        self.busy += min(now, SECONDS) - min(self._time.now, SECONDS)
        self._time.say(now, self, Done(0))


class Timed:
    """A foreman that wants cases for some seconds, or so many."""

    def __init__(self, time, *, cases=math.inf, beside=True):
        self._time, self._cases, self._beside = time, cases, beside
        self.learned, self.ended, self.is_long_over = [], 0, False

    @property
    def cases_left(self):
        return max(self._cases - len(self.learned), 0) if self._time.now < SECONDS else 0

    def chunk(self, number):
        return Chunk(number) if known_to(number, is_long=False) <= self.ended else None

    def chunk_beside(self, number):
        return Chunk(-number) if self._beside else None

    def next_shrink(self):
        return None

    def hear(self, tried):
        pass

    def count(self, tried):
        pass

    def learn(self, tried):
        self.learned.append(tried.case)

    def end_chunk(self):
        self.ended += 1


@pytest.fixture
def run(monkeypatch):
    """A function of a pool's size and what its foreman wants, to the share of time that processes work and this one."""

    def run(size, **wanted):
        time = Time()
        workers = []
        monkeypatch.setattr(pool_module, "Member", lambda _hire: workers.append(Worker(time)) or workers[-1])
        monkeypatch.setattr(pool_module, "wait", time.wait)
        monkeypatch.setattr(pool_module.journal, "forget", lambda _pid: None)
        foreman = Timed(time, **wanted)
        Pool(None, size).work(foreman)
        return sum(worker.busy for worker in workers) / (size * min(time.now, SECONDS)), foreman

    return run


@pytest.mark.parametrize("size", [2, 16, 64])
def test_no_process_waits_for_a_slow_case_of_another_one(run, size):
    worked, foreman = run(size)
    assert worked > 0.95
    assert foreman.learned == sorted(foreman.learned)


def test_without_cases_beside_the_stream_they_would(run):
    worked, _ = run(16, beside=False)
    assert worked < 0.5


def test_so_many_cases_are_the_same_whoever_runs_them(run):
    _, alone = run(1, cases=100, beside=False)
    _, foreman = run(16, cases=100, beside=False)
    assert foreman.learned[:100] == alone.learned[:100]
