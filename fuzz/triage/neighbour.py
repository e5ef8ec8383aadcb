"""A neighbour of a case: one that differs from it in one thing a person would name."""

from collections.abc import Iterator
from dataclasses import dataclass

from indexfuzz.core.case import Case
from indexfuzz.core.part import CaseError


@dataclass(frozen=True)
class Neighbour:
    """A case that differs from another one in `field` alone, which is `value` instead of `instead_of`.

    `instead_of` is empty where `value` says it all, as "left out" does.
    """

    case: Case
    field: str
    value: str
    instead_of: str

    def __str__(self) -> str:
        return f"{self.field} {self.value}" + (f" instead of {self.instead_of}" if self.instead_of else "")


def change(
    case: Case, field: str, value: str, instead_of: str, parts: dict[str, dict[str, object]]
) -> Iterator[Neighbour]:
    """The neighbour with other fields in some parts; none where it contradicts itself."""
    try:
        yield Neighbour(case.replace(**parts), field, value, instead_of)
    except CaseError:
        return


def tokens(count: int) -> str:
    """So many tokens."""
    return "1 token" if count == 1 else f"{count} tokens"
