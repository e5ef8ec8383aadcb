"""The process from which the members of a pool are forked: it has imported everything and runs no threads of its own.

So a new member is there at once, on a clean copy. Nothing heavy is imported here: it is started before anything else,
and imports while the campaign gets ready. Where it dies, its members die with it, and another one is started.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.context import ForkServerProcess
from multiprocessing.forkserver import _forkserver, ensure_running

CONTEXT = multiprocessing.get_context("forkserver")

CAMPAIGN = "INDEXFUZZ_CAMPAIGN"
"""The environment variable that tells the server whose it is."""

WITH = (
    "indexfuzz.devices.lockstep",
    "indexfuzz.implementations.builtin",
    "indexfuzz.subjects.in_process",
    "indexfuzz.campaign.knowing",
)
"""What members import when they open their subject, and what they know then."""

INTERRUPT = frozenset({signal.SIGINT})
"""What a terminal sends to all processes: this one tells the server when to end."""

ATTEMPTS, PAUSE = 5, 0.2
"""How often a process is tried to be forked, and the seconds between: a server that has just died is noticed late."""


class ServerError(Exception):
    """No process can be forked from the server. One sentence."""


def start_server() -> None:
    """Start it, unless it runs."""
    os.environ[CAMPAIGN] = str(os.getpid())
    CONTEXT.set_forkserver_preload(["indexfuzz.campaign.bound", "indexfuzz.campaign.member", *WITH])
    resource_tracker.ensure_running()  # whose start would unblock what is blocked here
    signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPT)  # which it inherits, and multiprocessing ignores too late
    try:
        ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPT)


def fork_from_server(target: Callable[..., None], *arguments: object) -> tuple[ForkServerProcess, int]:
    """A process that calls a function, and the id of the server that it was forked from, which is started if need be.

    Raises ServerError.
    """
    for attempt in range(ATTEMPTS):
        process = CONTEXT.Process(target=target, args=arguments, daemon=True)
        try:
            process.start()
        except (EOFError, OSError) as error:  # it has died, or is about to
            reason = f"{type(error).__name__}: {error}"
            time.sleep(PAUSE * attempt)
        else:
            return process, _server_id()
    raise ServerError(f"the server that processes are forked from died {ATTEMPTS} times in a row: {reason}")


def has_ended(process: int, seconds: float) -> bool:
    """Whether a child of this process ends within some seconds; that it has remains to be heard by who waits for it."""
    ends = time.monotonic() + seconds
    while True:
        try:
            if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return True
        except ChildProcessError:
            return True
        if time.monotonic() >= ends:
            return False
        time.sleep(0.01)


def _server_id() -> int:
    return int(vars(_forkserver)["_forkserver_pid"])
