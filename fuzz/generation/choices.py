"""Choices out of bytes: the only source of what varies between cases."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class Choices:
    """Makes choices out of bytes; zeros choose the first of everything.

    Hypothesis draws all of a case's bytes at once: separate draws would cost more than everything that is done with
    them, would prefer small integers, and would be copied over each other to make samples that are hardly new. Bytes
    are even, and shrink one by one. Every choice is made in every case, so that bytes keep their meaning.
    """

    def __init__(self, decisions: bytes) -> None:
        self._left = decisions

    def number(self, width: int) -> int:
        """A number of `width` bytes.

        Raises IndexError when there are not so many left.
        """
        if len(self._left) < width:
            raise IndexError("a case takes more bytes than it has")
        taken, self._left = self._left[:width], self._left[width:]
        return int.from_bytes(taken)

    def of(self, options: Sequence[T]) -> T:
        """One of at most 256 options."""
        return options[self.number(1) * len(options) >> 8]

    def of_each(self, lists: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """One of each list of options, by name."""
        return {name: self.of(options) for name, options in lists.items()}

    def of_one(self, lists: Sequence[Sequence[T]]) -> T:
        """One of the options of one of several lists; the first ones of lists that begin alike have the same bytes."""
        options = self.of(lists)
        return options[self.number(2) % len(options)]

    def between(self, low: int, high: int) -> int:
        """A number from low to high, both included: each power of two as likely as the next, even in between."""
        bits = self.of(range((low + 1).bit_length(), (high + 1).bit_length() + 1))
        first, last = max(low + 1, 1 << bits - 1), min(high + 1, (1 << bits) - 1)
        return first + (self.number(3) * (last - first + 1) >> 24) - 1
