"""Switches: the options of a case, words and truths, each of which can be set to another value by itself.

They decide what the tensors of integers hold where no number does: in which order pages lie, what stands behind a
request's last page, whose request padding claims to be.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal, get_args, get_origin

from indexfuzz.core.case import Case
from indexfuzz.core.part import CaseError, Part
from indexfuzz.generation.choices import Choices
from indexfuzz.generation.levers import with_scales

LEFT = frozenset({("memory", "far")})
"""Options that take gigabytes."""

SCALES = ("cache", "scales")
"""An option that those of the model go with."""

PINNED = frozenset({"model", "rope"})
"""Parts that a preset says."""

UNREHEARSED = frozenset({"compiled"})
"""Values under which launchers are not rehearsed."""

Switch = tuple[str, str, tuple[Any, ...]]
"""A part of a case, a field of it, and the values that it has."""


def flip(case: Case, choices: Choices, *, is_pinned: bool = False) -> Case | None:
    """The case with one option set to another value; None where the case would contradict itself.

    With `is_pinned`, the options of the model and its RoPE stay.
    """
    among = switches(is_pinned=is_pinned)
    part, name, values = among[choices.number(1) % len(among)]
    others = [value for value in values if value != getattr(getattr(case, part), name)]
    return _set(case, part, name, others[choices.number(1) % len(others)])


def switches(*, is_pinned: bool = False) -> list[Switch]:
    """All of them, or those that a preset leaves open."""
    return [one for one in _switches() if not (is_pinned and (one[0] in PINNED or one[:2] == SCALES))]


def set_apart(case: Case, switch: Switch) -> list[Case]:
    """The case with each other value of an option that it may have."""
    part, name, values = switch
    now = getattr(getattr(case, part), name)
    made = (_set(case, part, name, value) for value in values if value != now)
    return [there for there in made if there is not None]


def _set(case: Case, part: str, name: str, value: Any) -> Case | None:
    try:
        return case.replace(**(with_scales(case, value) if (part, name) == SCALES else {part: {name: value}}))
    except CaseError:
        return None


@cache
def _switches() -> tuple[Switch, ...]:
    """Every option of the parts of a case but for how values are drawn, which launchers do not look at."""
    return tuple(
        (part, name, values)
        for part, kind in _parts()
        for name, field in kind.model_fields.items()
        if (part, name) not in LEFT and (values := _values(field.annotation))
    )


def _parts() -> Iterator[tuple[str, type[Part]]]:
    parts: Mapping[str, Any] = {name: field.annotation for name, field in Case.model_fields.items()}
    yield from ((name, kind) for name, kind in parts.items() if name not in ("values", "session"))


def _values(annotation: Any) -> tuple[Any, ...]:
    if annotation is bool:
        return False, True
    words = get_args(annotation) if get_origin(annotation) is Literal else ()
    return tuple(word for word in words if word not in UNREHEARSED)
