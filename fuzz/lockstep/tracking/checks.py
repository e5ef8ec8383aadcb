"""Which checkers there are, and which of them are on."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

OPTIONAL_CHECKERS: Final = ("order", "shared")
"""Checkers that ask for more than every right kernel gives, or take long: on only where they are named."""

ALL_CHECKERS: Final = ("bounds", "races", "overflow", "undefined", "promises")


@dataclass(frozen=True, slots=True)
class Checks:
    """Which checkers are on. An access outside its tensor is dropped even where none is."""

    bounds: bool
    races: bool
    overflow: bool
    undefined: bool
    promises: bool
    order: bool
    shared: bool

    @classmethod
    def of(cls, names: Iterable[str]) -> "Checks":
        """The checkers of these names; ValueError for a name that is none."""
        chosen = set(names)
        every = (*ALL_CHECKERS, *OPTIONAL_CHECKERS)
        if unknown := chosen - set(every):
            raise ValueError(f"unknown checkers {sorted(unknown)}; there are {', '.join(every)}")
        return cls(**{name: name in chosen for name in every})
