"""Blending: a case with some fields of another one."""

from collections.abc import Iterable, Iterator

from indexfuzz.core.case import Case
from indexfuzz.core.part import CaseError
from indexfuzz.generation.choices import Choices
from indexfuzz.generation.switches import PINNED

PARTS = ("model", "cache", "batch", "rope", "memory", "values")
TOGETHER = (
    ("model", ("head_dim", "quant_group", "rope_dim")),
    ("cache", ("block_size", "layout", "page_pad")),
    ("batch", ("decode", "max_model_len")),
)
"""Fields that only make sense with each other."""

Fields = tuple[str, tuple[str, ...]]
"""A part of a case, and those of its fields that go together."""


def splice(case: Case, other: Case, count: int, choices: Choices, *, is_pinned: bool = False) -> Case | None:
    """A case with so many fields of another one, out of those that differ; None where they contradict each other."""
    among = differing(case, other, is_pinned=is_pinned)
    return blend(case, other, [among[choices.number(2) % len(among)] for _ in range(min(count, len(among)))])


def differing(case: Case, other: Case, *, is_pinned: bool = False) -> list[Fields]:
    """Fields that are others in another case; without those that a preset pins."""
    return [
        (part, names)
        for part, names in _fields(case)
        if any(getattr(getattr(case, part), name) != getattr(getattr(other, part), name) for name in names)
        and not (is_pinned and (part in PINNED or "block_size" in names))
    ]


def blend(case: Case, other: Case, taken: Iterable[Fields]) -> Case | None:
    """A case with these fields of another one; None where they contradict each other."""
    parts: dict[str, dict[str, object]] = {}
    for part, names in taken:
        parts.setdefault(part, {}).update({name: getattr(getattr(other, part), name) for name in names})
    try:
        return case.replace(**parts)
    except CaseError:
        return None


def _fields(case: Case) -> Iterator[Fields]:
    """Every field of every part, those together that only make sense with each other."""
    yield from TOGETHER
    apart = {(part, name) for part, names in TOGETHER for name in names}
    for part in PARTS:
        for name in type(getattr(case, part)).model_fields:
            if (part, name) not in apart and name not in ("rng", "set"):
                yield part, (name,)
