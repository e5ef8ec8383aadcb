"""Examine things in processes of their own: what is examined may never end, or take its process along."""

import os
import queue
import signal
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing import active_children, get_context
from typing import Any, Generic, Protocol, Self, TypeVar

import torch

from indexfuzz.core.interrupts import SIGNALS
from indexfuzz.core.memory import held_memory

GRACE = 30.0
"""CPU seconds beyond the budget of a thing, for one slow case and for what is imported late."""

PATIENCE = 20
"""Wall seconds for each of those: a machine that has other things to do is not taken for a thing that hangs."""

MOST_MEMORY = 1 << 30
"""Bytes that a process may hold between two things: each mutant stays imported, with all that is known of its code."""

ThingT = TypeVar("ThingT")
ResultT = TypeVar("ResultT")
ThingT_contra = TypeVar("ThingT_contra", contravariant=True)
ResultT_co = TypeVar("ResultT_co", covariant=True)


class Budget(Hashable, Protocol):
    """What may be spent on a thing."""

    @property
    def seconds(self) -> float:
        """CPU seconds."""


class Examiner(Protocol[ThingT_contra, ResultT_co]):
    """Examines one thing after the other."""

    def examine(self, thing: ThingT_contra, /) -> ResultT_co:
        """What became of it."""


MakeExaminer = Callable[[Any], Examiner[ThingT, ResultT]]
"""Makes an examiner of a budget, in the process that examines: a class, or a function that can be imported."""

GiveUp = Callable[[ThingT, float, str], ResultT]
"""What became of a thing that did not end within so many CPU seconds, or ended its process; the last says why."""


class ExaminationError(Exception):
    """Examining failed, which says nothing about the thing."""


@cache
def _examiner(make: MakeExaminer[ThingT, ResultT], budget: Budget) -> Examiner[ThingT, ResultT]:
    torch.set_num_threads(1)
    return make(budget)


def _examine(make: MakeExaminer[ThingT, ResultT], budget: Budget, limit: float, thing: ThingT) -> tuple[ResultT, int]:
    """In the child: the result, and the bytes that the process holds.

    A thing that takes `limit` seconds of CPU time ends the process, since the signal has no handler.
    """
    signal.setitimer(signal.ITIMER_PROF, limit)
    try:
        examiner: Examiner[ThingT, ResultT] = _examiner(make, budget)
        return examiner.examine(thing), held_memory()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


class Process(Generic[ThingT, ResultT]):
    """One process that examines, replaced when it hangs, dies or holds too much; `method` says how it is started."""

    def __init__(
        self,
        make: MakeExaminer[ThingT, ResultT],
        give_up: GiveUp[ThingT, ResultT],
        budget: Budget,
        method: str = "spawn",
    ) -> None:
        self._make = make
        self._give_up = give_up
        self._budget = budget
        self._method = method
        self._start()

    def _start(self) -> None:
        self._pool = ProcessPoolExecutor(1, get_context(self._method))
        self._pid = self._pool.submit(os.getpid).result()
        self._child = next(child for child in active_children() if child.pid == self._pid)

    def _restart(self) -> None:
        self._pool.shutdown()
        self._start()

    def examine(self, thing: ThingT) -> ResultT:
        """What became of a thing; it is given up when it takes more CPU time than the budget and GRACE.

        Raises ExaminationError when it is the examination that fails, or is stopped together with this process.
        """
        limit = self._budget.seconds + GRACE
        future = self._pool.submit(_examine, self._make, self._budget, limit, thing)
        try:
            result, memory = future.result(limit * PATIENCE)
        except TimeoutError:
            why = "no answer in time"
            os.kill(self._pid, signal.SIGKILL)
        except BrokenProcessPool:
            why = "the process died"
            self._pool.shutdown()
            ended_by = -(self._child.exitcode or 0)
            if ended_by in SIGNALS:
                raise ExaminationError(f"{thing}: {signal.Signals(ended_by).name} stopped its process") from None
        except Exception as error:
            raise ExaminationError(f"{thing}: {type(error).__name__}: {error}") from error
        else:
            if memory > MOST_MEMORY:
                self._restart()
            return result
        self._restart()
        return self._give_up(thing, limit, why)

    def stop(self) -> None:
        """End the process."""
        self._pool.shutdown()


class Crew(Generic[ThingT, ResultT]):
    """So many processes, each of which examines a thing at a time; they end with the block that they are made for."""

    def __init__(
        self,
        make: MakeExaminer[ThingT, ResultT],
        give_up: GiveUp[ThingT, ResultT],
        budget: Budget,
        workers: int,
    ) -> None:
        self._processes = [Process(make, give_up, budget) for _ in range(workers)]
        self._idle: queue.SimpleQueue[Process[ThingT, ResultT]] = queue.SimpleQueue()
        for process in self._processes:
            self._idle.put(process)

    def examine(self, thing: ThingT) -> ResultT:
        """What became of a thing, examined by the next process that is idle; any thread may ask.

        Raises ExaminationError.
        """
        process = self._idle.get()
        try:
            return process.examine(thing)
        finally:
            self._idle.put(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.stop()


def examine_all(
    things: Sequence[ThingT],
    make: MakeExaminer[ThingT, ResultT],
    give_up: GiveUp[ThingT, ResultT],
    budget: Budget,
    *,
    workers: int = 1,
    on_result: Callable[[ResultT], None] = lambda _result: None,
) -> list[ResultT]:
    """Examine things in that many processes; the results in the order of the things.

    Raises ExaminationError.
    """
    lock = threading.Lock()

    def examine(thing: ThingT) -> ResultT:
        result = crew.examine(thing)
        with lock:
            on_result(result)
        return result

    with Crew(make, give_up, budget, workers) as crew, ThreadPoolExecutor(workers) as threads:
        return list(threads.map(examine, things))
