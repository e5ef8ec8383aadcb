"""A finding of a step of a session says so in words, which are read in one place."""

import pytest

from indexfuzz.core.finding import Finding, in_step, split_step


@pytest.mark.parametrize("number", [0, 3, 12])
def test_the_step_that_is_named_is_read_again(number):
    found = in_step(Finding("pool", "bound-exceeded", "keys", "pool: key 1 is 2"), number)
    assert found.detail == f"step {number} of the session: pool: key 1 is 2"
    assert split_step(found.detail) == (number, "pool: key 1 is 2")


def test_what_names_no_step_is_the_rest():
    assert split_step("key 1 of step 2 of the session: is 3") == (0, "key 1 of step 2 of the session: is 3")
