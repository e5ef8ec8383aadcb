"""The plainest way to make a case small, to hold the minimiser against: one small step at a time, and from the start.

Of all cases that are one step smaller, the first that shows the bug is taken, and then all are tried again. A step
leaves out one thing, takes one number down by half or by one, or puts one field back to its default.
"""

from collections.abc import Iterator
from typing import Any

from indexfuzz.core.case import Case
from indexfuzz.core.part import CaseError, Part
from indexfuzz.samples.regimes import TENSORS
from indexfuzz.triage.order import DEFAULT, SIMPLE_REGIMES, SIZES
from indexfuzz.triage.session_reductions import tidy
from indexfuzz.triage.smallest import Smallest

LISTS = (("batch", "decode"), ("batch", "prefill"), ("session", "steps"))
"""Fields that are sequences, of numbers or of parts."""


def reduce_plainly(smallest: Smallest) -> None:
    """Take one step after the other until none is left that shows the bug."""
    while any(smallest.take_case(candidate) for candidate in _step_down(smallest.case)):
        pass


def _step_down(case: Case) -> Iterator[Case]:
    """All cases one step away, those that leave out most first."""
    for part, name in LISTS:
        items = getattr(getattr(case, part), name)
        for shorter in _shorter([item.model_dump() if isinstance(item, Part) else item for item in items]):
            yield from _with(case, part, name, shorter)
    for part, fields in DEFAULT:
        for name, _ in fields:
            for value in _simpler(part, name, getattr(getattr(case, part), name)):
                yield from _with(case, part, name, value)


def _with(case: Case, part: str, name: str, value: Any) -> Iterator[Case]:
    """The case with another value of a field; none where it contradicts itself."""
    try:
        changed = case.replace(**{part: {name: value}})
        if name == "steps":
            tidied = tuple(step.model_dump() for step in tidy(changed.session.steps))
            changed = changed.replace(session={"steps": tidied})
        yield changed
    except CaseError:
        return


def _shorter(items: Any) -> Iterator[tuple[Any, ...]]:
    """The sequence without one of its items, and with one of them smaller."""
    items = tuple(items)
    for at, item in enumerate(items):
        yield (*items[:at], *items[at + 1 :])
        yield from ((*items[:at], less, *items[at + 1 :]) for less in _less(item))


def _less(item: Any) -> Iterator[Any]:
    """A number by half and by one, or a part with one of its own fields smaller."""
    if isinstance(item, dict):
        for name, value in item.items():
            smaller = _shorter(value) if isinstance(value, list | tuple) else _less(value)
            yield from ({**item, name: less} for less in smaller)
    elif isinstance(item, int) and not isinstance(item, bool) and item > 0:
        yield from dict.fromkeys((item // 2, item - 1))


def _simpler(part: str, name: str, value: Any) -> Iterator[Any]:
    """A field at its default, or one step towards the smallest that it can be."""
    if part == "values" and name in TENSORS:
        yield from SIMPLE_REGIMES
    elif name == "set":
        yield from ({**value, tensor: entries} for tensor, every in value.items() for entries in _shorter(every))
    elif (part, name) in LISTS:
        return
    elif isinstance(value, int) and not isinstance(value, bool):
        yield from _less(value)
    elif name not in SIZES.get(part, ()):
        yield getattr(getattr(DEFAULT, part), name)
