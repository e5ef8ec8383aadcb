"""Ctrl-C, SIGTERM and SIGHUP end a command in one way: soon, with everything saved, and never unheard.

A signal raises Interrupted wherever the main thread is. Somebody else's code may swallow that, an `except:` around an
import or a destructor; so the signal is also remembered, and `check` raises again.
"""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asks the command to end. No KeyboardInterrupt: libraries have ideas of their own about that."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return signal.Signals(self.number).name

    @property
    def exit_code(self) -> int:
        """What a shell expects of a command that a signal has ended."""
        return 128 + self.number


@dataclass
class _Listener:
    """What has been heard. `number` is the signal that nobody has dealt with yet, or 0."""

    number: int = 0
    shields: int = 0
    is_ending: bool = False

    def forget(self) -> None:
        self.number, self.is_ending = 0, False

    def hear(self, number: int, _frame: FrameType | None) -> None:
        if self.is_ending:
            return
        self.number = self.number or number
        if not self.shields and not _is_unwinding():
            raise Interrupted(self.number)


_listener = _Listener()


def _is_unwinding() -> bool:
    """Whether an Interrupted is on its way up already: whoever cleans up behind it needs peace."""
    error = sys.exception()
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error is not None


def _pass_over(tell: Callable[[Any], object]) -> Callable[[Any], None]:
    """Tell of exceptions that Python cannot raise, as in a destructor; of a signal nothing is lost with them."""

    def hook(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, Interrupted):
            tell(unraisable)

    return hook


@contextmanager
def listening(*, deaf_afterwards: bool = False) -> Iterator[None]:
    """Turn signals into Interrupted until the end of the block.

    Then they do what they did before, or nothing where the process has only to end: its exit code is decided. What was
    heard in the block is over with it: it must not end what runs in this process afterwards.
    """
    _listener.forget()
    unraisable, sys.unraisablehook = sys.unraisablehook, _pass_over(sys.unraisablehook)
    before = {number: signal.signal(number, _listener.hear) for number in SIGNALS}
    try:
        yield
    finally:
        sys.unraisablehook = unraisable
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if deaf_afterwards else handler)
        _listener.forget()


def check() -> None:
    """Raise Interrupted again where a signal was heard and its exception was swallowed or put off."""
    if _listener.number and not _listener.is_ending and not _listener.shields:
        raise Interrupted(_listener.number)


@contextmanager
def shielded() -> Iterator[None]:
    """Put signals off to the end of the block: what it writes is written whole. For what is soon done."""
    _listener.shields += 1
    try:
        yield
    finally:
        _listener.shields -= 1
    check()


@contextmanager
def unmasked() -> Iterator[None]:
    """Raise Interrupted where somebody else's code has made an error of its own of it, as callbacks in C may do."""
    try:
        yield
    except Exception:
        check()
        raise


def end() -> None:
    """Hear no more signals: the command is ending, and what is left to do is short."""
    _listener.is_ending = True
