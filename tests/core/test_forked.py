"""A copy of a process does something, and leaves nothing but its result."""

import os

import pytest

from indexfuzz.core.forked import ForkedError, call_forked, cpu_seconds


def test_the_result_comes_back_and_nothing_else_does():
    held = []

    def function():
        held.append(os.getpid())
        return held * 2

    mine, found = os.getpid(), call_forked(function, 5)
    assert held == []
    assert len(found) == 2
    assert mine not in found


def test_a_large_result_comes_back():
    assert call_forked(lambda: b"x" * (1 << 20), 5) == b"x" * (1 << 20)


def test_what_dies_has_no_result():
    assert call_forked(lambda: os.kill(os.getpid(), 9), 5) is None


def test_what_takes_too_long_is_ended():
    def spin():
        while True:
            pass

    before = cpu_seconds()
    assert call_forked(spin, 1) is None
    assert cpu_seconds() - before > 0.5  # that of the copy counts


def test_an_exception_is_raised_here_with_its_traceback():
    with pytest.raises(ForkedError, match=r"^KeyError: 'there'") as caught:
        call_forked(lambda: {}["there"], 5)
    assert "lambda: {}" in caught.value.__notes__[0]
