"""Time for each item of a pytest session, so that one that takes long ends none of the others."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

SECONDS: Final = 25
"""An item may take this long."""

SLOWER: Final = f"slower than {SECONDS} s"
"""What is said of an item that takes longer."""


class SlowError(BaseException):
    """An item took too long; no test catches it by accident."""


@contextmanager
def limited() -> Iterator[None]:
    """Fail the item that runs in the block where it takes longer."""
    signal.signal(signal.SIGALRM, _raise_slow)
    signal.alarm(SECONDS)
    try:
        yield
    except SlowError:
        pytest.fail(SLOWER, pytrace=False)
    finally:
        signal.alarm(0)


def _raise_slow(*_: object) -> None:
    raise SlowError
