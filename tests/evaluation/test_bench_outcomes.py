"""What becomes of a suite's items on two sides: what the plugin wrote, the table, and what is missed."""

import json

import pytest

from indexfuzz.evaluation.bench.item_limit import SLOWER
from indexfuzz.evaluation.bench.outcomes import count, describe_outcomes, find_missed, read_outcomes


def lines(*items):
    return [json.dumps({"item": item, "outcome": outcome, "reason": reason}) for item, outcome, reason in items]


LOCKSTEP = read_outcomes(
    lines(
        ("a.py::test_a[1]", "passed", ""),
        ("a.py::test_a[2]", "skipped", "Skipped: lockstep: k.py:3: tricks are not supported"),
        ("a.py::test_a[3]", "skipped", "Skipped: lockstep: k.py:3: tricks are not supported"),
        ("b.py::test_b", "failed", "AssertionError: no"),
        ("b.py::test_c", "skipped", "Skipped: other"),
        ("b.py::test_d", "failed", "both"),
        ("b.py::test_e", "failed", f"Failed: {SLOWER}"),
    )
)
INTERPRETER = read_outcomes(
    lines(
        *((f"a.py::test_a[{n}]", "passed", "") for n in (1, 2, 3)),
        ("b.py::test_b", "passed", ""),
        ("b.py::test_c", "skipped", "Skipped: other"),
        ("b.py::test_d", "failed", "both"),
        ("b.py::test_e", "failed", f"Failed: {SLOWER}"),
    )
)


def test_what_the_interpreter_passes_and_lockstep_does_not():
    missed = find_missed(LOCKSTEP, INTERPRETER)
    assert [(miss.test, miss.outcome) for miss in missed] == [
        ("a.py::test_a", "refused"),
        ("a.py::test_a", "refused"),
        ("b.py::test_b", "failed"),
    ]


def test_the_table():
    told = describe_outcomes(LOCKSTEP, INTERPRETER).splitlines()
    assert told[0].split() == ["passed", "refused", "slow", "failed", "skipped"]
    assert told[1].split() == ["lockstep", "1", "2", "1", "2", "1"]
    assert told[2].split() == ["interpreter", "4", "0", "1", "1", "1"]
    assert told[4] == "Of 4 items that Triton's interpreter passes, lockstep passes 1 (25.00 %)"
    assert told[5] == "    2 refused: a.py::test_a: k.py:3: tricks are not supported"
    assert told[6] == "    1 failed: b.py::test_b: AssertionError: no"


def test_what_did_not_run_in_lockstep_is_missed():
    (miss,) = find_missed({}, read_outcomes(lines(("a.py::test_a", "passed", ""), ("a.py::test_b", "failed", "no"))))
    assert (miss.item, miss.outcome) == ("a.py::test_a", "failed")
    assert "1 failed: a.py::test_a: was not run in lockstep" in describe_outcomes(
        {}, read_outcomes(lines(("a.py::test_a", "passed", "")))
    )


def test_the_last_time_counts_of_an_item_that_is_run_again():
    items = read_outcomes(lines(("a", "rerun", "AssertionError"), ("a", "passed", "")))
    assert count(items)["passed"] == 1


@pytest.mark.parametrize("reason", [f"AssertionError: {SLOWER}", "Failed: no"])
def test_what_says_so_itself_is_not_slow(reason):
    assert count(read_outcomes(lines(("a", "failed", reason))))["slow"] == 0


def test_an_item_that_fails_when_it_is_torn_down_has_failed():
    items = read_outcomes(lines(("a", "passed", ""), ("a", "failed", "late")))
    assert count(items)["failed"] == len(items) == 1
