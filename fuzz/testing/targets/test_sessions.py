"""Fuzz target: requests that live through steps; pages are freed, used again, shared, overwritten, read."""

from hypothesis import given

from indexfuzz.core.case import Case
from indexfuzz.generation.sessions import sessions
from indexfuzz.testing.target import check, target


@target
@given(case=sessions())
def test_sessions(case: Case) -> None:
    """Every step leaves what follows from the tokens of each request alone."""
    check(case)
