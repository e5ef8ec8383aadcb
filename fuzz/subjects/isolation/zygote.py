"""The child: it loads everything once and forks workers, so that a dead one is replaced within milliseconds.

It touches no GPU: a CUDA context does not survive a fork, so there each worker loads the implementation for itself.
"""

import faulthandler
import gc
import os
import platform
import select
import signal
import socket
import sys
from typing import NoReturn

import torch

from indexfuzz import __version__
from indexfuzz.core.setup import Setup
from indexfuzz.devices import forks
from indexfuzz.subjects.in_process import InProcess, version_of
from indexfuzz.subjects.isolation import frames
from indexfuzz.subjects.isolation.lifeline import outlive
from indexfuzz.subjects.isolation.worker import WHERE_SIGNAL, Posts, explain, work
from indexfuzz.subjects.under_test import put_under_test

FORK, KILL, WHERE = b"F", b"K", b"W"
"""What the parent wants: a worker, its end, or that it writes to standard error what it is doing."""


def serve(control: int) -> NoReturn:
    """Load what the parent asks for, then fork and end workers as it says, until it closes the connection."""
    hello = frames.receive(control)
    if hello is None:
        os._exit(0)
    if hello["path"]:
        sys.path[:] = hello["path"]
    setup = Setup(**hello["setup"] | {"faults": tuple(hello["setup"]["faults"])})
    torch.set_num_threads(1)
    faulthandler.register(WHERE_SIGNAL, file=2, all_threads=False)
    frames.send(control, {"loading": setup.spec})
    loaded = None
    try:
        if forks(setup.device):
            loaded = put_under_test(setup).subject
    except Exception as error:  # noqa: BLE001 - the parent raises it
        frames.send(control, explain(error))
        os._exit(1)
    versions = {"python": platform.python_version(), "torch": version_of("torch"), "triton": version_of("triton")}
    frames.send(control, {"ready": {"protocol": frames.PROTOCOL, "indexfuzz": __version__, **versions}})
    gc.freeze()
    outlive()
    Zygote(socket.socket(fileno=control), setup, loaded).serve()


class Zygote:
    """One worker at a time."""

    def __init__(self, control: socket.socket, setup: Setup, loaded: InProcess | None) -> None:
        self._control = control
        self._setup = setup
        self._loaded = loaded
        self._worker: int | None = None
        self._wake, told = os.pipe()
        os.set_blocking(told, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)

    def serve(self) -> NoReturn:
        """Do as the parent says."""
        while True:
            control = self._control.fileno()
            ready, _, _ = select.select([control, self._wake], [], [])
            if self._wake in ready:
                os.read(self._wake, 1 << 12)
                self._reap()
            if control in ready:
                command, fds, _, _ = socket.recv_fds(self._control, 1, len(Posts._fields))
                if command == FORK:
                    self._fork(Posts(*fds))
                elif command == KILL:
                    self._kill()
                elif command == WHERE:
                    if self._worker is not None:
                        os.kill(self._worker, WHERE_SIGNAL)
                else:
                    self._end()

    def _fork(self, posts: Posts) -> None:
        me = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                self._control.close()
                os.close(self._wake)
                work(posts, me, self._setup, self._loaded)
            finally:
                os._exit(1)
        self._worker = pid
        for fd in posts:
            os.close(fd)
        frames.send(self._control.fileno(), {"forked": pid})

    def _kill(self) -> None:
        """Kill the worker and what it has started."""
        if self._worker is not None:
            try:
                os.killpg(self._worker, signal.SIGKILL)
            except ProcessLookupError:  # it has no group of its own yet
                os.kill(self._worker, signal.SIGKILL)

    def _end(self) -> NoReturn:
        """End once the worker has."""
        self._kill()
        if self._worker is not None:
            os.waitpid(self._worker, 0)
        os._exit(0)

    def _reap(self) -> None:
        """Tell the parent how a worker has ended."""
        if self._worker is None:
            return
        ended = os.waitid(os.P_PID, self._worker, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return
        self._kill()
        _, status = os.waitpid(self._worker, 0)
        self._worker = None
        frames.send(self._control.fileno(), {"died": os.waitstatus_to_exitcode(status)})
