"""Mask coverage: the branch coverage of data-parallel code.

For each load, store, atomic, where, branch and loop of a kernel's source: was its mask all true in some program, all
false in some program, mixed in some program?
"""

import linecache
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from indexfuzz.lockstep.tracking.sites import Site
from indexfuzz.lockstep.values.arrays import Mask

STATES: Final = ("all-true", "all-false", "mixed")
UNMASKED: Final = frozenset({"unmasked"})
"""What is seen of an operation without a mask: it ran."""

_DECISIONS: Final = {
    "branch": {"all-true": "never taken", "all-false": "never skipped"},
    "loop": {"all-true": "never entered", "all-false": "never skipped"},
}
"""What is missing of an operation that decides for a whole program."""


@dataclass(frozen=True, slots=True)
class Record:
    """The mask of one operation in one run; wide says whether it has more than one lane."""

    site: Site
    kind: str
    states: frozenset[str]
    wide: bool = False

    @classmethod
    def of(cls, site: Site, kind: str, mask: Mask | None) -> "Record":
        """What a mask [programs, *block] was, program by program; None for an operation without one."""
        if mask is None:
            return cls(site, kind, UNMASKED)
        lanes = mask.reshape(mask.shape[0], -1)
        every, some = lanes.all(axis=1), lanes.any(axis=1)
        happened = (every.any(), not some.all(), (some & ~every).any())
        states = frozenset(state for state, seen in zip(STATES, happened, strict=True) if seen)
        return cls(site, kind, states, wide=lanes.shape[1] > 1)


@dataclass(frozen=True, slots=True)
class Operation:
    """One load, store, atomic, where, branch or loop of a kernel's source, and what was seen of it."""

    file: str
    line: int
    kind: str
    states: frozenset[str]
    wide: bool

    @property
    def missing(self) -> str:
        """What was never seen, in words; empty where nothing is missing. A mixed mask was both true and false."""
        if self.states == UNMASKED:
            return ""
        if self.kind in _DECISIONS:
            return ", ".join(words for state, words in _DECISIONS[self.kind].items() if state not in self.states)
        if "mixed" in self.states:
            return ""
        if "all-true" not in self.states:
            return "never true"
        if "all-false" not in self.states:
            return "never false"
        return "never mixed" if self.wide else ""


@dataclass(slots=True)
class Coverage:
    """What was seen so far, over any number of launches.

    seen maps (file, line, kind) to the set of states of that mask in any program, or "unmasked"; wide holds the
    operations whose mask has several lanes.
    """

    seen: dict[tuple[str, int, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    wide: set[tuple[str, int, str]] = field(default_factory=set)

    def add(self, records: Iterable[Record]) -> None:
        """Add what one run saw."""
        for record in records:
            key = record.site.file, record.site.line, record.kind
            self.seen[key] |= record.states
            if record.wide:
                self.wide.add(key)

    def clear(self) -> None:
        """Forget all that was seen."""
        self.seen.clear()
        self.wide.clear()

    def operations(self) -> list[Operation]:
        """Every operation that ran, by file, line and kind."""
        return [Operation(*key, frozenset(states), key in self.wide) for key, states in sorted(self.seen.items())]

    def as_data(self) -> list[dict[str, Any]]:
        """The operations as plain JSON data."""
        return [
            {
                "file": o.file,
                "line": o.line,
                "kind": o.kind,
                "seen": sorted(o.states),
                "wide": o.wide,
                "missing": o.missing,
            }
            for o in self.operations()
        ]

    def add_data(self, data: Iterable[dict[str, Any]]) -> None:
        """Add what another process saw, as `as_data` gave it."""
        for operation in data:
            key = operation["file"], operation["line"], operation["kind"]
            self.seen[key] |= set(operation["seen"])
            if operation["wide"]:
                self.wide.add(key)

    def report(self) -> str:
        """A count, and a table of the operations of which something was never seen."""
        operations = self.operations()
        gaps = [(f"{_short(o.file)}:{o.line}", o.kind, o.missing) for o in operations if o.missing]
        lines = [f"mask coverage: {len(operations) - len(gaps)} of {len(operations)} operations were seen in every way"]
        width = max((len(place) for place, *_ in gaps), default=0)
        lines += [f"  {place:<{width}}   {kind:<6}   {missing}" for place, kind, missing in gaps]
        return "\n".join(lines)

    def files(self) -> list[str]:
        """The source files of the kernels that ran."""
        return sorted({file for file, *_ in self.seen})

    def marks(self, file: str) -> dict[int, str]:
        """What was seen on the lines of a file, three letters each.

        T, F and M: a mask all true, all false, mixed in some program; `-` for one not seen; U: without a mask.
        """
        states: dict[int, set[str]] = defaultdict(set)
        for operation in self.operations():
            if operation.file == file:
                states[operation.line] |= operation.states
        return {line: _mark(seen) for line, seen in states.items()}

    def listing(self, file: str) -> str:
        """The source of a file, each line after its marks; a `!` goes before lines of which something is missing."""
        marks = self.marks(file)
        missing = {operation.line for operation in self.operations() if operation.file == file and operation.missing}
        result = []
        for number, text in enumerate(linecache.getlines(file), 1):
            flag = "!" if number in missing else " "
            result.append(f"{flag} {marks.get(number, '   ')} {number:5d} {text}".rstrip())
        return "\n".join(result)


def _mark(states: set[str]) -> str:
    if not states:
        return "   "
    if states == UNMASKED:
        return "U  "
    return "".join(letter if state in states else "-" for letter, state in zip("TFM", STATES, strict=True))


def _short(file: str) -> str:
    here = Path.cwd()
    return str(Path(file).relative_to(here)) if Path(file).is_relative_to(here) else file
