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
from indexfuzz.subjects.isolation.deaths import last_words, of_status
from indexfuzz.subjects.isolation.errors import checked
from indexfuzz.subjects.isolation.held import tail
from indexfuzz.subjects.isolation.launch import launch, search_path

LOADING = 300.0
"""Seconds that loading an implementation may take."""

SOON = 10.0
"""Seconds for what takes none."""


class Connection:
    """Starts the child, and talks to it until it is closed. `versions` are those of Python, torch and triton there."""

    def __init__(self, setup: Setup, python: str) -> None:
        """Launch it and wait until it is ready.

        Raises SetupError when the interpreter or the implementation cannot be used, ChildError when we fail there.
        """
        self._spec, self._python = setup.spec, python
        self.control, theirs = socket.socketpair()
        self._inbox = frames.Inbox(self.control.fileno())
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._process: subprocess.Popen[bytes] | None = None
        try:
            with theirs:
                self._process = launch(python, setup.device, theirs, self._log)
            self._greet(setup)
        except BaseException:
            self.close()
            raise

    def _greet(self, setup: Setup) -> None:
        hello = {"setup": asdict(setup), "path": search_path(self._python), "gpu": setup.device.startswith("cuda")}
        with suppress(OSError):  # it is dead: so much will be told in a moment
            frames.send(self.control.fileno(), hello)
        message = self.next(LOADING)
        if message is None:
            raise SetupError(self._why_not())
        self.versions: dict[str, str] = checked(message)["ready"]
        for what, ours in (("protocol", frames.PROTOCOL), ("indexfuzz", __version__)):
            if self.versions[what] != ours:
                theirs = self.versions[what]
                raise SetupError(f"{self._python} runs {what} {theirs}, this is {ours}; both must be the same")

    def _why_not(self) -> str:
        """Why the child ended, or says nothing, before it had loaded the implementation."""
        assert self._process is not None  # noqa: S101 - launched
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        status = self._process.returncode
        why = f"it took longer than {LOADING:.0f} s" if status is None else of_status(status).words
        said = last_words(tail(self._log.fileno()))
        return f"{self._spec} cannot be loaded by {self._python}: {why}" + (f"; it said: {said}" if said else "")

    def command(self, command: bytes) -> None:
        """Tell the child what to do."""
        with suppress(OSError):  # it is dead: so much will be told in a moment
            self.control.send(command)

    def next(self, seconds: float) -> frames.Message | None:
        """Its next message; None when it has ended or takes too long."""
        until = time.monotonic() + seconds
        with suppress(OSError, frames.FrameError):
            while (message := self._inbox.next()) is None:
                left = until - time.monotonic()
                if left <= 0 or not wait([self.control], left) or not self._inbox.read():
                    return None
            return message
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
