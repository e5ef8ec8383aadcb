"""Mask coverage: whether the mask of each load, store, where and branch was all true, all false, or mixed."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from indexfuzz.lockstep.source import Site

STATES: Final = ("all-true", "all-false", "mixed")


@dataclass(slots=True)
class Coverage:
    """What was seen so far, over any number of launches.

    seen maps (file, line, kind) to the set of states of that mask; an operation without a mask counts as all-true.
    """

    seen: dict[tuple[str, int, str], set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, records: Iterable[tuple[Site, str, bool, bool]]) -> None:
        """Add records of (place, kind, any lane true, any lane false)."""
        for site, kind, some_true, some_false in records:
            state = "mixed" if some_true and some_false else "all-true" if some_true else "all-false"
            self.seen[site.file, site.line, kind].add(state)

    def report(self) -> str:
        """One line for each operation: place, kind and states seen."""
        lines = []
        for (file, line, kind), states in sorted(self.seen.items()):
            shown = ", ".join(s for s in STATES if s in states)
            lines.append(f"{file}:{line}: {kind}: {shown}")
        return "\n".join(lines)

    def listing(self, file: str) -> str:
        """The source of a file, each line after T, F and M for the states seen on it, `-` for one not seen."""
        by_line: dict[int, set[str]] = defaultdict(set)
        for (name, line, _), states in self.seen.items():
            if name == file:
                by_line[line] |= states
        result = []
        for number, text in enumerate(Path(file).read_text(encoding="utf-8").splitlines(), 1):
            states = by_line.get(number, set())
            mark = "".join(letter if state in states else "-" for letter, state in zip("TFM", STATES, strict=True))
            result.append(f"{mark if states else '   '} {number:5d} {text}".rstrip())
        return "\n".join(result)
