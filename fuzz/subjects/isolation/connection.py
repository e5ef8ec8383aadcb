"""The parent's line to the process that forks workers."""

import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import wait

from indexfuzz import __version__
from indexfuzz.core.setup import Setup, SetupError
from indexfuzz.subjects.isolation import frames
from indexfuzz.subjects.isolation.deaths import of_status
from indexfuzz.subjects.isolation.errors import unwrap
from indexfuzz.subjects.isolation.handle import await_report, tail
from indexfuzz.subjects.isolation.launch import launch, search_path
from indexfuzz.subjects.isolation.reports import last_words, location
from indexfuzz.subjects.isolation.worker import WHERE_SIGNAL

STARTING = 300.0
"""Seconds that an interpreter may take to import PyTorch and this package, and a worker to open a GPU."""

SOON = 10.0
"""Seconds for what takes none."""

LONGEST = 3600.0
"""Seconds that one call of the system waits at most."""


class Connection:
    """Starts the child, and talks to it until it is closed. `versions` are those of Python, torch and triton there."""

    def __init__(self, setup: Setup, python: str, seconds: float) -> None:
        """Launch it and wait until it is ready; it may take `seconds` to load the implementation.

        Raises SetupError when the interpreter or the implementation cannot be used, ChildError when we fail there.
        """
        self._spec, self._python = setup.spec, python
        self.control, theirs = socket.socketpair()
        self._inbox = frames.Inbox(self.control.fileno())
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._process: subprocess.Popen[bytes] | None = None
        self.has_ended = False
        try:
            with theirs:
                self._process = launch(python, setup.device, theirs, self._log)
            self._greet(setup, seconds)
        except BaseException:
            self.close()
            raise

    def _greet(self, setup: Setup, seconds: float) -> None:
        with suppress(OSError):  # it has ended, which the next read shows
            frames.send(self.control.fileno(), {"setup": asdict(setup), "path": search_path(self._python)})
        self._expect(STARTING)
        self.versions: dict[str, str] = self._expect(seconds)["ready"]
        for what, ours in (("protocol", frames.PROTOCOL), ("indexfuzz", __version__)):
            if self.versions[what] != ours:
                theirs = self.versions[what]
                raise SetupError(f"{self._python} runs {what} {theirs}, this is {ours}; both must be the same")

    def _expect(self, seconds: float) -> frames.Message:
        """Its next message.

        Raises SetupError when it ends, takes longer or says that it cannot, ChildError when we fail there.
        """
        message = self.next(seconds)
        if message is None:
            why = self._why_it_ended() if self.has_ended else self._why_it_waits(seconds)
            raise SetupError(f"{self._spec} cannot be loaded by {self._python}: {why}")
        return unwrap(message)

    def _why_it_ended(self) -> str:
        status = self._process.wait() if self._process else 0
        said = last_words(tail(self._log.fileno()))
        return of_status(status).words + (f"; it said: {said}" if said else "")

    def _why_it_waits(self, seconds: float) -> str:
        if self._process:
            self._process.send_signal(WHERE_SIGNAL)
        where = location(await_report(self._log.fileno(), SOON))
        return f"it took longer than {seconds:g} s" + (f", and is at {where}" if where else "")

    def command(self, command: bytes) -> None:
        """Tell the child what to do."""
        with suppress(OSError):  # it has ended, which the next read shows
            self.control.send(command)

    def next(self, seconds: float) -> frames.Message | None:
        """Its next message; None when it has ended or takes too long."""
        until = time.monotonic() + seconds
        with suppress(OSError, frames.FrameError):
            while (message := self._inbox.next()) is None:
                left = until - time.monotonic()
                if left <= 0:
                    return None
                if wait([self.control], min(left, LONGEST)) and not self._inbox.read():
                    break
            else:
                return message
        self.has_ended = True
        return None

    def close(self) -> None:
        """End the child, which ends its worker."""
        self.control.close()
        if self._process is not None:
            try:
                self._process.wait(SOON if hasattr(self, "versions") else 0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()
