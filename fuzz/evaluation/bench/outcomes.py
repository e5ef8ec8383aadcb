"""What becomes of each test of a suite that is run on two sides, in lockstep and in Triton's interpreter."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from indexfuzz.evaluation.bench.item_limit import SLOWER

OUTCOMES: Final = ("passed", "refused", "slow", "failed", "skipped")
_REFUSED: Final = "Skipped: lockstep: "
_RERUN: Final = "rerun"
"""What a plugin that runs failing items again says of all times but the last."""

_SHOWN: Final = 20
"""Reasons that are listed."""


@dataclass(frozen=True)
class Item:
    """What became of one test item on one side, one of OUTCOMES, and why.

    Refused: lockstep lacks something; slow: its time was up; skipped: the test itself wants something else.
    """

    outcome: str
    reason: str


_ABSENT: Final = Item("failed", "was not run in lockstep")


@dataclass(frozen=True)
class Miss:
    """An item that the interpreter passes and lockstep does not."""

    item: str
    outcome: str
    reason: str

    @property
    def test(self) -> str:
        """The item without its parameters and folder."""
        return self.item.partition("[")[0].rpartition("/")[2]

    @property
    def is_wrong(self) -> bool:
        """Whether it failed or took too long; what is refused by name has not."""
        return self.outcome in {"failed", "slow"}


class OutcomeWriter:
    """A pytest plugin: appends what becomes of every item to a file, as a line of JSON."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the call of an item, or what ended it before or after."""
        if report.when == "call" or report.outcome != "passed":
            line = {"item": report.nodeid, "outcome": report.outcome, "reason": _reason(report.longrepr)}
            with self._file.open("a", encoding="utf-8") as outcomes:
                outcomes.write(json.dumps(line) + "\n")


def _reason(told: Any) -> str:
    """What pytest tells of an item that did not pass, in a line."""
    if isinstance(told, tuple):
        return str(told[2])
    crash = getattr(told, "reprcrash", None)
    lines = str(crash.message if crash else told or "").strip().splitlines()
    return lines[0] if lines else ""


def read_outcomes(lines: Sequence[str]) -> dict[str, Item]:
    """What the plugin wrote, by item; an item that failed at any point has failed."""
    found: dict[str, Item] = {}
    for line in lines:
        data = json.loads(line)
        known = found.get(data["item"])
        if known is None or known.outcome == _RERUN or data["outcome"] == "failed":
            found[data["item"]] = _classify(str(data["outcome"]), str(data["reason"]))
    return found


def _classify(outcome: str, reason: str) -> Item:
    if reason.startswith(_REFUSED):
        return Item("refused", reason.removeprefix(_REFUSED))
    return Item("slow" if reason.removeprefix("Failed: ") == SLOWER else outcome, reason)


def count(items: dict[str, Item]) -> dict[str, int]:
    """How many items came to each outcome."""
    counted = Counter(item.outcome for item in items.values())
    return {outcome: counted[outcome] for outcome in OUTCOMES}


def find_missed(lockstep: dict[str, Item], interpreter: dict[str, Item]) -> list[Miss]:
    """The items that the interpreter passes and lockstep does not, be it that they were not run there."""
    passed = {name: lockstep.get(name, _ABSENT) for name, item in interpreter.items() if item.outcome == "passed"}
    return [Miss(name, item.outcome, item.reason) for name, item in passed.items() if item.outcome != "passed"]


def as_data(lockstep: dict[str, Item], interpreter: dict[str, Item]) -> dict[str, Any]:
    """How many items came to each outcome on either side, and those that lockstep misses, as JSON has them."""
    missed = [asdict(miss) for miss in find_missed(lockstep, interpreter)]
    return {"lockstep": count(lockstep), "interpreter": count(interpreter), "missed": missed}


def describe_outcomes(lockstep: dict[str, Item], interpreter: dict[str, Item]) -> str:
    """A table of both sides, how much lockstep passes of what the interpreter passes, and why not the rest."""
    sides = {"lockstep": count(lockstep), "interpreter": count(interpreter)}
    missed = find_missed(lockstep, interpreter)
    lines = [f"{'':12}" + "".join(f"{outcome:>9}" for outcome in OUTCOMES)]
    lines += [f"{side:12}" + "".join(f"{n:9}" for n in counted.values()) for side, counted in sides.items()]
    passed = sides["interpreter"]["passed"]
    share = f" ({100 * (passed - len(missed)) / passed:.2f} %)" if passed else ""
    lines.append(f"\nOf {passed} items that Triton's interpreter passes, lockstep passes {passed - len(missed)}{share}")
    reasons = Counter((miss.outcome, miss.test, miss.reason) for miss in missed)
    lines += [
        f"{times:5} {outcome}: {test}: {reason}" for (outcome, test, reason), times in reasons.most_common(_SHOWN)
    ]
    if len(reasons) > _SHOWN:
        lines.append(f"      and {len(reasons) - _SHOWN} other reasons; --json has them all")
    return "\n".join(lines)
