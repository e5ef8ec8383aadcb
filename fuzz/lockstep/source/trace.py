"""The line of a kernel that did something, with the values that its names had in one program and lane of it.

Before it come the lines that those values came from: for each name, the last statement above that gave it its value,
and of what was loaded, from where. Values are those of the moment; a name that a loop has given another value since
then shows the later one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from indexfuzz.lockstep.source.lanes import Lane, lanes_of_names
from indexfuzz.lockstep.source.statements import Statement, definition_of, statement_at
from indexfuzz.lockstep.source.words import (
    Places,
    at_lane,
    describe_name,
    describe_value,
    find_place,
    find_undefined,
    places_in,
)
from indexfuzz.lockstep.tracking.access import Access
from indexfuzz.lockstep.tracking.moments import Frame, Moment
from indexfuzz.lockstep.triton_api.types import Constexpr, Tensor
from indexfuzz.lockstep.values.arrays import Array
from indexfuzz.lockstep.values.value import Value

MOST_LINES = 9
"""Lines of a trace."""


@dataclass(frozen=True)
class Line:
    """A statement, what it loads or stores in the lane, and its names with their values there."""

    file: str
    line: int
    text: str
    access: str
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Trace:
    """What one program did in one lane: the line itself is the first, then what led to it, the nearest first."""

    kernel: str
    program: tuple[int, int, int]
    lane: Lane
    lines: tuple[Line, ...]

    def sentences(self) -> Iterator[str]:
        """The trace as lines of text."""
        lane = f", lane {self.lane}" if self.lane else ""
        yield f"In {self.kernel} ({Path(self.lines[0].file).name}), program {self.program}{lane}:"
        for number, line in enumerate(self.lines):
            if number == 1:
                yield "What led to it:"
            yield f"  {line.line:>4}  {line.text}"
            if line.access:
                yield f"        {line.access}"
            if line.values:
                width = max(len(name) for name, _ in line.values)
                yield from (f"        {name:<{width}} = {value}" for name, value in line.values)


def trace(moment: Moment, program: int, lane: Lane, places: Places | None = None) -> Trace | None:
    """What a moment was, in a program by its number in the launch and at a lane; None where the source is not known."""
    row = moment.row_of(program)
    if row < 0 or not moment.frames:
        return None
    known = _Telling(moment, row, places or places_in(moment.tensors))
    lines = tuple(known.lines(lane))
    return Trace(moment.kernel, moment.coordinates(program), lane, lines) if lines else None


@dataclass(frozen=True)
class _Telling:
    moment: Moment
    row: int
    places: Places

    def lines(self, lane: Lane) -> Iterator[Line]:
        """The blamed line and what led to it, and the same in the functions that called it."""
        told: set[tuple[str, int]] = set()
        for depth, frame in enumerate(self.moment.frames):
            lines = list(self._lines_of(frame, lane, told, blamed=depth == 0))
            yield from lines[:1]
            yield from sorted(lines[1:], key=lambda line: -line.line)

    def _lines_of(self, frame: Frame, lane: Lane, told: set[tuple[str, int]], *, blamed: bool) -> Iterator[Line]:
        waiting: list[tuple[Statement, Lane | None]] = []
        constants = {name: held.value for name, held in frame.names.items() if isinstance(held, Constexpr)}
        if statement := statement_at(frame.site.file, frame.site.line):
            waiting.append((statement, lane))
        while waiting and len(told) < MOST_LINES:
            statement, at = waiting.pop(0)
            if (statement.file, statement.line) in told:
                continue
            told.add((statement.file, statement.line))
            names = dict(_names(statement, at))
            yield Line(
                statement.file,
                statement.line,
                statement.text,
                self._access(statement, at or (), blamed=blamed and len(told) == 1),
                tuple(self._values(names, frame)),
            )
            suspects, others = list[tuple[Statement, Lane | None]](), list[tuple[Statement, Lane | None]]()
            for name, of in names.items():
                given = definition_of(name, statement, constants) if name in frame.names else None
                if given is not None:
                    undefined = self._undefined_lane(frame.names[name], of)
                    others.append((given, of)) if undefined is None else suspects.append((given, undefined))
            # What is undefined comes first: where it was loaded is what one looks for.
            waiting = [*_nearest(suspects), *waiting, *_nearest(others)]

    def _undefined_lane(self, held: object, lane: Lane | None) -> Lane | None:
        """The lane, or where that is not known any, in which a name holds nothing that the program defined."""
        value = held.handle if isinstance(held, Tensor) else None
        if not isinstance(value, Value) or value.undefined is None:
            return None
        if lane is not None and len(lane) == len(value.shape):
            return lane if at_lane(value.undefined, self.row, lane) else None
        return find_undefined(value, self.row)

    def _values(self, names: dict[str, Lane | None], frame: Frame) -> Iterator[tuple[str, str]]:
        for name, lane in names.items():
            if name in frame.names and (words := describe_name(frame.names[name], self.row, lane, self.places)):
                yield name, words

    def _access(self, statement: Statement, lane: Lane, *, blamed: bool) -> str:
        """Where the statement loads or stores in the lane."""
        if blamed:
            own = self.moment.access
            return self._describe(own, lane) if own is not None else self._describe_violation(lane)
        for access in reversed(self.moment.before):
            site = access.site
            if site and site.file == statement.file and statement.line <= site.line <= statement.last_line:
                return self._describe(access, lane)
        return ""

    def _describe_violation(self, lane: Lane) -> str:
        """Where the pointer of a violation points in the lane; empty where it is about no pointer."""
        pointer = self.moment.pointer
        if not pointer.origins:
            return ""
        words = describe_value(pointer, self.row, lane, self.places)
        return f"points to {words}" if words else ""

    def _describe(self, access: Access, lane: Lane) -> str:
        pointer = access.pointer
        if len(lane) != len(pointer.shape):
            lane = lane[: len(pointer.shape)] if len(lane) > len(pointer.shape) else (0,) * len(pointer.shape)
        shape = pointer.shape
        if not all(at < max(size, 1) for at, size in zip(lane, shape, strict=True)):
            return ""
        offset = int(at_lane(pointer.data, self._row(pointer.data), lane))
        wanted = bool(at_lane(access.wanted, self._row(access.wanted), lane)) if access.wanted.ndim else True
        place = find_place(access.allocation, offset, self.places)
        byte = f"{pointer.argument} + {offset - pointer.base} bytes"
        verb = {"load": "loads", "store": "stores", "atomic": "updates"}[access.kind]
        where = f"{byte}{f', which is {place}' if place else ''}"
        count = f"{access.size} byte{'s' if access.size > 1 else ''}"
        return f"{verb} {count} at {where}" if wanted else f"masked off: {verb} nothing at {where}"

    def _row(self, data: Array) -> int:
        return self.row if data.shape[0] > 1 else 0


def _nearest(found: list[tuple[Statement, Lane | None]]) -> list[tuple[Statement, Lane | None]]:
    """Statements with their lanes, the last of the file first."""
    return sorted(found, key=lambda each: -each[0].line)


def _names(statement: Statement, lane: Lane | None) -> Iterator[tuple[str, Lane | None]]:
    """The names that a statement reads, with their lanes; of a name that it reads twice, the lane that is known."""
    found: dict[str, Lane | None] = {}
    for expression in statement.expressions:
        for name, at in lanes_of_names(expression, lane):
            if found.get(name) is None:
                found[name] = at
    yield from found.items()
