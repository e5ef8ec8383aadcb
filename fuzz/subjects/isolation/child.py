"""Questions to a worker, and everything that can become of it meanwhile."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait

from indexfuzz.core.setup import Setup
from indexfuzz.subjects.isolation import frames
from indexfuzz.subjects.isolation.connection import SOON, STARTING, Connection
from indexfuzz.subjects.isolation.deaths import Death, of_status
from indexfuzz.subjects.isolation.errors import DiedError, unwrap
from indexfuzz.subjects.isolation.handle import WorkerHandle
from indexfuzz.subjects.isolation.zygote import KILL, WHERE

POLL = 0.1
"""Seconds between two looks at what a worker takes."""

LOST = Death("lost", "the process that forks workers died")


class Child:
    """One child, one worker at a time; either is started when it is needed.

    The child may take `loading` seconds to load the implementation, a worker hold `memory` bytes. `clock` measures what
    an answer takes.
    """

    def __init__(
        self,
        setup: Setup,
        python: str,
        loading: float,
        memory: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._setup = setup
        self._python = python
        self._loading = loading
        self._memory = memory
        self._clock = clock
        self._connection: Connection | None = None
        self._worker: WorkerHandle | None = None

    @property
    def worker(self) -> int | None:
        """The id of the worker's process."""
        worker = self._worker
        return (worker.pid or None) if worker is not None and worker.status is None else None

    def facts(self) -> frames.Message:
        """What a worker says of itself when it is ready.

        Raises SetupError, ChildError or DiedError.
        """
        with self._no_half_answers():
            self._discard()
            _, _, facts = self._start_worker()
            return facts

    def answer(self, question: frames.Message, seconds: float) -> frames.Message:
        """The worker's answer; a new worker is forked where there is none.

        Raises DiedError when the worker dies of the question or takes longer, UnsupportedKernelError and
        ImplementationError as the oracles do, SetupError when the implementation cannot be loaded, ChildError when
        IndexFuzz itself fails in the child.
        """
        with self._no_half_answers():
            connection, worker = self._ready()
            message = self._await(connection, worker, worker.ask(question), seconds)
            if "poisoned" in message:
                words = f'the process left the GPU unusable ("{message["poisoned"]}")'
                death = worker.complete(Death("poisoned-gpu", words))
                self._discard()
                raise DiedError(death)
        return unwrap(message)

    def renew(self) -> None:
        """Let the next question go to a new worker."""
        with self._no_half_answers():
            self._discard()

    def close(self) -> None:
        """End the child and its worker."""
        connection, self._connection = self._connection, None
        worker, self._worker = self._worker, None
        if connection is not None:
            connection.close()
        if worker is not None:
            worker.close()

    @contextmanager
    def _no_half_answers(self) -> Iterator[None]:
        """After an interrupt or an error a worker may still be at work: nobody wants its answer any more."""
        try:
            yield
        except DiedError:
            raise
        except BaseException:
            self.close()
            raise

    def _ready(self) -> tuple[Connection, WorkerHandle]:
        """A worker that waits for a question, and who forked it."""
        if self._connection is not None:
            while (message := self._connection.next(0)) is not None:
                self._hear(message)
        if self._connection is None or self._worker is None or self._worker.status is not None:
            self._discard()
            connection, worker, _ = self._start_worker()
            return connection, worker
        return self._connection, self._worker

    def _start_worker(self) -> tuple[Connection, WorkerHandle, frames.Message]:
        """A new worker that has loaded the implementation, who forked it, and what it says of itself."""
        connection = self._connection = self._connection or Connection(self._setup, self._python, self._loading)
        worker = self._worker = WorkerHandle()
        worker.hand_over(connection.control)
        message = connection.next(SOON)
        if message is None:
            self.close()
            raise DiedError(LOST)
        worker.pid = message["forked"]
        return connection, worker, unwrap(self._await(connection, worker, 0, self._loading + STARTING))["facts"]

    def _await(self, connection: Connection, worker: WorkerHandle, number: int, seconds: float) -> frames.Message:
        """The message with that number.

        Raises DiedError.
        """
        until = self._clock() + seconds
        ends: list[int | socket.socket] = [worker.answers, connection.control]
        while True:
            try:
                message = worker.answer(number)
            except frames.FrameError as error:
                raise self._kill(Death("garbled", f"the process sent {error} for an answer")) from None
            if message is not None:
                return message
            if worker.status is not None:
                death = worker.complete(of_status(worker.status))
                self._discard()
                raise DiedError(death)
            now = self._clock()
            if now >= until:
                raise self._kill(Death("timeout", f"no answer within {seconds:.3g} s"))
            if excess := worker.find_excess(self._memory):
                raise self._kill(excess)
            for end in wait(ends, min(POLL, until - now)):
                if end is connection.control:
                    self._hear(connection.next(SOON))
                elif not worker.read():
                    ends.remove(worker.answers)

    def _hear(self, message: frames.Message | None) -> None:
        """Take note of what the child says of its worker.

        Raises DiedError when it says nothing more.
        """
        if message is None:
            death = self._worker.complete(LOST) if self._worker else LOST
            self.close()
            raise DiedError(death)
        if self._worker is not None and "died" in message:
            self._worker.note_end(message["died"])

    def _kill(self, death: Death) -> DiedError:
        """Kill the worker; its death, with what it leaves behind."""
        connection, worker = self._connection, self._worker
        if connection is not None and worker is not None:
            connection.command(WHERE)
            worker.await_report(SOON if death.how == "timeout" else POLL)
            connection.command(KILL)
            self._hear(connection.next(SOON))
            death = worker.complete(death)
        self._discard()
        return DiedError(death)

    def _discard(self) -> None:
        """Let go of a worker that has ended, or ends because nobody asks it any more."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        worker.close()
        if worker.status is None and self._connection is not None:
            message = self._connection.next(SOON)
            if message is None or "died" not in message:
                self.close()
