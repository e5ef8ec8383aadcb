"""Do something in a copy of this process that ends afterwards: what it does to its memory is nobody's."""

import os
import pickle
import resource
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from typing import TypeVar, cast

T = TypeVar("T")

BYTES = 1 << 16

WALL = 20
"""Wall seconds for each CPU second: a machine that has other things to do is not taken for a function that hangs."""


class ForkedError(Exception):
    """What was done in a copy of this process raised an exception; a note has the traceback."""


_of_copies = 0.0
"""CPU seconds of all copies that have ended."""


def cpu_seconds() -> float:
    """CPU seconds of this process, and of its copies; compilers and others that it starts do not count."""
    return time.process_time() + _of_copies


def call_forked(function: Callable[[], T], seconds: int) -> T | None:
    """What a function returns in a copy of this process; None where that dies, or takes more CPU seconds.

    The result is pickled. Only for functions that start no threads of their own.

    Raises ForkedError where the function raises an exception.
    """
    reads, writes = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of other threads, which the copy has no use for
        pid = os.fork()
    if not pid:
        _end_with(function, reads, writes, seconds)
    os.close(writes)
    try:
        sent = _receive(reads, WALL * seconds)
    finally:
        os.close(reads)
        os.kill(pid, signal.SIGKILL)
        _bury(pid)
    if not sent:
        return None
    result, error, trace = pickle.loads(sent)  # noqa: S301 - this process wrote it
    if error:
        raised = ForkedError(error)
        raised.add_note(trace)
        raise raised
    return cast("T", result)


def _end_with(function: Callable[[], object], reads: int, writes: int, seconds: int) -> None:
    """Send the result of a function, or what it raises, and end at once."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.close(reads)
        used = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (used + seconds + 1, most))
        try:
            sent = pickle.dumps((function(), "", ""))
        except Exception as error:  # noqa: BLE001 - it is raised where the function was called
            sent = pickle.dumps((None, f"{type(error).__name__}: {error}", traceback.format_exc()))
        with os.fdopen(writes, "wb") as stream:
            stream.write(sent)
    finally:
        os._exit(0)


def _bury(pid: int) -> None:
    global _of_copies  # noqa: PLW0603 - as the kernel's own count for a process
    _, _, used = os.wait4(pid, 0)
    _of_copies += used.ru_utime + used.ru_stime


def _receive(reads: int, seconds: float) -> bytes:
    """All that is written before the other end is closed; nothing where that does not happen in time."""
    parts, ends = list[bytes](), time.monotonic() + seconds
    while select.select([reads], [], [], max(ends - time.monotonic(), 0))[0]:
        part = os.read(reads, BYTES)
        if not part:
            return b"".join(parts)
        parts.append(part)
    return b""
