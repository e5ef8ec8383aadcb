"""The time of a campaign begins with its first case, and ends even where none comes."""

from types import SimpleNamespace

import pytest

from indexfuzz.campaign.budget import LATE, PATIENCE, Budget
from indexfuzz.campaign.settings import Settings


@pytest.fixture
def clock():
    return SimpleNamespace(now=1000.0)


@pytest.fixture
def budget(clock):
    return Budget(Settings(None, seconds=60.0), clock=lambda: clock.now)


def test_what_passes_before_the_first_case_is_not_taken_from_the_rest(budget, clock):
    clock.now += 100
    assert not budget.is_over
    budget.begin()
    clock.now += 59
    budget.begin()
    assert not budget.is_over
    clock.now += 1
    assert budget.is_over
    assert not budget.is_long_over
    clock.now += LATE * 60
    assert budget.is_long_over
    assert budget.elapsed == 160 + LATE * 60


def test_a_first_case_that_never_comes_is_not_waited_for_without_end(budget, clock):
    clock.now += PATIENCE + 59
    assert not budget.is_over
    clock.now += 1
    assert budget.is_over
    clock.now += LATE * 60
    assert budget.is_long_over
