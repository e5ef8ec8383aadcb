"""What the parent has of a worker: the ends of its pipes, and the files that outlive it."""

import os
import socket
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path

from indexfuzz.subjects.isolation import frames
from indexfuzz.subjects.isolation.deaths import Death
from indexfuzz.subjects.isolation.reports import has_whole_report
from indexfuzz.subjects.isolation.worker import STAGE_BYTES, Posts
from indexfuzz.subjects.isolation.zygote import FORK

MOST_OUTPUT = 64 << 20
MOST_ERRORS = 1 << 15
"""Bytes of standard error that are looked at: what Python says of a hundred frames has some 12 KB."""

PAGE = os.sysconf("SC_PAGE_SIZE")
LOOK = 0.01
"""Seconds between two looks at what it has written."""


class WorkerHandle:
    """One worker. `pid` is set once it is forked, `status` once it has ended: minus a signal, or an exit code."""

    def __init__(self) -> None:
        theirs_in, self._questions = os.pipe()
        self.answers, theirs_out = os.pipe()
        self._output, self._errors, self._stage = (tempfile.TemporaryFile() for _ in range(3))  # noqa: SIM115 - kept
        files = (file.fileno() for file in (self._output, self._errors, self._stage))
        self._posts = Posts(theirs_in, theirs_out, *files)
        self._inbox = frames.Inbox(self.answers)
        self._asked = 0
        self.pid = 0
        self.status: int | None = None

    def hand_over(self, control: socket.socket) -> None:
        """Send its ends to whoever forks it."""
        with suppress(OSError):  # it has ended, which the next read shows
            socket.send_fds(control, [FORK], list(self._posts))
        os.close(self._posts.questions)
        os.close(self._posts.answers)

    def ask(self, question: frames.Message) -> int:
        """Send a question; its number, which the answer will have."""
        self._asked += 1
        with suppress(BrokenPipeError):  # it has ended, which the next read shows
            frames.send(self._questions, question | {"number": self._asked})
        return self._asked

    def answer(self, number: int) -> frames.Message | None:
        """The answer with that number, if it has been read.

        Raises FrameError.
        """
        while (message := self._inbox.next()) is not None:
            if message.get("number") == number:
                return message
        return None

    def read(self) -> bool:
        """Read what is there; False at the end."""
        return self._inbox.read()

    def note_end(self, status: int) -> None:
        """It has ended; what it had written before is still read."""
        self.status = status
        while wait([self.answers], 0) and self.read():
            pass

    def close(self) -> None:
        """Let go of it."""
        os.close(self._questions)
        os.close(self.answers)
        for file in (self._output, self._errors, self._stage):
            file.close()

    def await_report(self, seconds: float) -> None:
        """Wait until it has written to standard error what it is doing, as it was told to, but no longer than that."""
        await_report(self._errors.fileno(), seconds)

    def complete(self, death: Death) -> Death:
        """A death with what the worker has left behind."""
        note = os.pread(self._stage.fileno(), STAGE_BYTES, 0).decode(errors="replace").strip("\0 ")
        where, _, broken = note.partition("\n")
        running, errors = where.startswith("+"), tail(self._errors.fileno())
        return replace(death, stage=where[1:], running=running, beyond=broken, errors=errors)

    def find_excess(self, memory: int) -> Death | None:
        """The death of a worker that prints without end or holds more than `memory` bytes; None for any other."""
        if sum(os.fstat(file.fileno()).st_size for file in (self._output, self._errors)) > MOST_OUTPUT:
            return Death("output-flood", f"the process printed more than {MOST_OUTPUT >> 20} MiB")
        with suppress(OSError, IndexError):  # no /proc, or it is gone already
            held = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE
            if held > memory:
                return Death("memory", f"the process took more than the {memory / 2**30:.1f} GiB that it may")
        return None


def await_report(fd: int, seconds: float) -> str:
    """The end of a file, once a process has written there what it is doing, or after that many seconds."""
    until = time.monotonic() + seconds
    while not has_whole_report(errors := tail(fd)) and time.monotonic() < until:
        time.sleep(LOOK)
    return errors


def tail(fd: int) -> str:
    """The end of a file, as text."""
    return os.pread(fd, MOST_ERRORS, max(0, os.fstat(fd).st_size - MOST_ERRORS)).decode(errors="replace")
