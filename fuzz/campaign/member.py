"""A process of a pool: what it is given at its start, what it does, and how the pool holds it."""

import os
import signal
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch

from indexfuzz.campaign.chunk import Chunk
from indexfuzz.campaign.drawing import shapes_of_chunk
from indexfuzz.campaign.jobs import Report, Shrink, Slice, make_smaller, run_case
from indexfuzz.campaign.server import CONTEXT, fork_from_server, has_ended
from indexfuzz.campaign.settings import Settings
from indexfuzz.campaign.steered import Drawn
from indexfuzz.core.interrupts import SIGNALS
from indexfuzz.core.memory import held_memory
from indexfuzz.core.setup import Setup
from indexfuzz.subjects.fresh import shows_in_fresh_process
from indexfuzz.subjects.in_lockstep import tell_of_lockstep
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.isolation.lifeline import die_with
from indexfuzz.subjects.journal import Journal
from indexfuzz.subjects.open import prepare
from indexfuzz.subjects.reaching import reaching

MOST_MEMORY = 2 << 30
"""Bytes that a process may hold on to between two jobs; one that holds more is replaced."""


Job = Chunk | Slice | Shrink
"""What a process is given to do: draw cases, run some, or make one smaller."""

SOON = 10.0
"""Seconds for what takes none."""

UNHEARD = 255
"""The exit code of a process whose server has died before it could tell another one."""


@dataclass(frozen=True)
class Hire:
    """What a member works on: a setup, the fields of Settings that determine what is drawn, and the environment.

    With `journal` it notes each case before it runs. With `reaches` its outcomes say what a case reached.
    """

    setup: Setup
    journal: bool
    reaches: bool = False
    drawing: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(frozen=True)
class Ready:
    """The process has loaded what it works on."""


@dataclass(frozen=True)
class Drew:
    """The cases of the chunk of this number, by shape."""

    chunk: int
    shapes: tuple[tuple[Drawn, ...], ...]


@dataclass(frozen=True)
class Done:
    """A job is done, and the process holds so many bytes."""

    memory: int


@dataclass(frozen=True)
class Failed:
    """IndexFuzz itself failed in a member; `error` is one line, `trace` the traceback."""

    error: str
    trace: str


def serve(connection: Connection, hire: Hire) -> None:
    """Do jobs until there are no more; signals concern the process that gives them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    die_with(os.getppid())
    os.environ.clear()  # of what the server was started with: it may be older than what has been set since
    os.environ.update(hire.environment)
    try:
        _do_jobs(connection, hire)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # nobody is there any more
    except Exception as error:  # noqa: BLE001 - it is raised where the job was given
        connection.send(Failed(f"{type(error).__name__}: {error}", traceback.format_exc()))


def _do_jobs(connection: Connection, hire: Hire) -> None:
    torch.set_num_threads(1)
    subject = prepare(hire.setup).subject
    if hire.reaches and isinstance(subject, InProcess):
        subject = reaching(subject)
    wanted = Settings(
        subject,
        before_case=Journal(partial(hire.setup.command, "replay")).note if hire.journal else lambda _case: None,
        confirm=partial(shows_in_fresh_process, hire.setup),
        elsewhere=partial(tell_of_lockstep, hire.setup),
        **hire.drawing,
    )
    connection.send(Ready())
    while True:
        job: Job = connection.recv()
        if isinstance(job, Shrink):
            make_smaller(wanted, job, connection.send)
        elif isinstance(job, Chunk):
            connection.send(Drew(job.number, tuple(shapes_of_chunk(wanted, job))))
        else:
            for drawn in job.cases:
                for report in run_case(wanted, drawn):
                    connection.send(report)
        connection.send(Done(held_memory()))


class Member:
    """The pool's end of a process.

    `job` is what it does now, `told` how many cases of a slice have been heard of, `is_ready` whether it has loaded
    what it works on.
    """

    def __init__(self, hire: Hire) -> None:
        self.connection, theirs = CONTEXT.Pipe()
        self._process, self._server = fork_from_server(serve, theirs, hire)
        theirs.close()
        self.job: Job | None = None
        self.told = 0
        self.is_ready = False

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid or 0

    @property
    def server(self) -> int:
        """The id of the process that it was forked from, and dies with."""
        return self._server

    @property
    def is_orphaned(self) -> bool:
        """Whether that process has died, and taken this one along, which is dead."""
        waits = SOON if self._process.exitcode == UNHEARD else 0.0
        return has_ended(self._server, waits)

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    def give(self, job: Job) -> None:
        """Let it do a job, which it is told once it is ready: before that it does not listen."""
        self.job, self.told = job, 0
        if self.is_ready:
            self._send(job)

    def begin(self) -> None:
        """It is ready: let it do the job that it was given."""
        self.is_ready = True
        if self.job is not None:
            self._send(self.job)

    def _send(self, job: Job) -> None:
        with suppress(OSError):  # it is dead, and its connection will say so
            self.connection.send(job)

    def next(self) -> Report | Ready | Drew | Done | Failed | None:
        """What it says next; None when it is dead."""
        try:
            message: Report | Ready | Drew | Done | Failed = self.connection.recv()
        except (EOFError, OSError):
            return None
        return message

    def bury(self) -> int:
        """The exit code of a process that is dead or about to be; minus a signal, where that has ended it."""
        self._process.join(SOON)
        self.end()
        return self._process.exitcode or 0

    def end(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.join()
        self.connection.close()
