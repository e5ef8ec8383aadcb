"""The line of a kernel that did something, with the values that its names had in one program and lane of it.

Before it come the lines that those values came from: for each name, the last statement above that gave it its value,
and of what was loaded, from where; and the conditions under which these run. Where a function of the kernel made it, so
do the lines of that function. Values are those of the moment, in a function that has ended those of its end; a name
that a loop has given another value since then shows the later one.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from indexfuzz.lockstep.source.lanes import Lane, lanes_of_calls, lanes_of_names
from indexfuzz.lockstep.source.statements import Statement, condition_of, definition_of, statement_at
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
from indexfuzz.lockstep.tracking.moments import Called, Frame, Moment
from indexfuzz.lockstep.triton_api.types import Tensor
from indexfuzz.lockstep.values.arrays import Array
from indexfuzz.lockstep.values.value import Value

MOST_LINES = 16
"""Lines of a trace."""

FEW_LINES = 14
"""Lines of a trace up to which it is told what did not lead to the suspect."""

Suspect = Literal["value", "place"]
"""What is wrong with a store: what it stores, or where or whether it does."""


@dataclass(frozen=True)
class Line:
    """A statement of a function, what it loads or stores in the lane, and its names with their values there."""

    file: str
    function: str
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
        here = self.lines[0]
        for number, line in enumerate(self.lines):
            if number == 1:
                yield "What led to it:"
            if (line.file, line.function) != (here.file, here.function):
                yield f"  in {line.function} ({Path(line.file).name}):"
            here = line
            yield f"  {line.line:>4}  {line.text}"
            if line.access:
                yield f"        {line.access}"
            if line.values:
                width = max(len(name) for name, _ in line.values)
                yield from (f"        {name:<{width}} = {value}" for name, value in line.values)


def trace(
    moment: Moment, program: int, lane: Lane, places: Places | None = None, suspect: Suspect | None = None
) -> Trace | None:
    """What a moment was, in a program by its number in the launch and at a lane; None where the source is not known.

    What led to the `suspect` comes before all else, and alone is followed into functions; where it is not known, the
    value and the place take turns.
    """
    row = moment.row_of(program)
    if row < 0 or not moment.frames:
        return None
    known = _Telling(moment, row, places or places_in(moment.tensors), suspect)
    lines = tuple(known.lines(lane))
    return Trace(moment.kernel, moment.coordinates(program), lane, lines) if lines else None


@dataclass(frozen=True)
class _Telling:
    moment: Moment
    row: int
    places: Places
    suspect: Suspect | None

    def lines(self, lane: Lane) -> Iterator[Line]:
        """The blamed line and what led to it, and the same in the functions that called it."""
        told: set[tuple[str, int]] = set()
        for depth, frame in enumerate(self.moment.frames):
            lines = list(self._lines_of(frame, lane, told, blamed=depth == 0))
            yield from lines[:1]
            functions = [*dict.fromkeys((line.file, line.function) for line in lines)]
            yield from sorted(lines[1:], key=lambda line: (functions.index((line.file, line.function)), -line.line))

    def _lines_of(self, frame: Frame, lane: Lane, told: set[tuple[str, int]], *, blamed: bool) -> Iterator[Line]:
        first = statement_at(*frame.site[:2])
        if first is None:
            return
        given = _Given(first, lane, frame)
        waiting = [given]
        entered: set[tuple[Called, int | None]] = set()
        while waiting and len(told) < MOST_LINES:
            is_stored = self.suspect == "value" if self.suspect else not given.is_stored
            given = waiting.pop(next((i for i, each in enumerate(waiting) if each.is_stored == is_stored), 0))
            statement = given.statement
            is_suspect = self.suspect is None or given.is_stored == is_stored
            if not is_suspect and len(told) >= FEW_LINES:
                break
            made = list(self._enter(given, entered)) if is_suspect else []
            place = statement.file, statement.line
            if place in told:
                waiting = [*made, *waiting]
                continue
            if not given.passes_on:
                told.add(place)
                yield Line(
                    statement.file,
                    statement.function.name,
                    statement.line,
                    statement.text,
                    self._access(statement, given.lane or (), blamed=blamed and len(told) == 1),
                    tuple(self._values(given.names, given.frame)),
                )
            suspects, others = self._definitions(given)
            # What is undefined comes first: where it was loaded is what one looks for.
            waiting = [*made, *_nearest(suspects), *waiting, *_nearest(others)]

    def _definitions(self, given: "_Given") -> "tuple[list[_Given], list[_Given]]":
        """The statements that gave what one reads its values, those of undefined names and all others.

        What decides whether it runs at all is one of these.
        """
        suspects, others, frame = list[_Given](), list[_Given](), given.frame
        for name, lane in given.names.items():
            found = definition_of(name, given.statement, frame.constants) if name in frame.names else None
            if found is not None:
                undefined = self._undefined_lane(frame.names[name], lane)
                where = suspects if undefined is not None else others
                is_stored = given.is_stored or name in given.statement.stored
                where.append(_Given(found, lane if undefined is None else undefined, frame, name, is_stored=is_stored))
        if decides := condition_of(given.statement):
            others.append(_Given(decides, None, frame, is_stored=given.is_stored))
        return suspects, others

    def _enter(self, given: "_Given", entered: set[tuple[Called, int | None]]) -> "Iterator[_Given]":
        """The statements with which functions that one calls return what it gives its name; each only once."""
        statement, part = given.statement, given.statement.part_given(given.name)
        for called, frame in self.moment.returned.items():
            if called.file != statement.file or not statement.line <= called.line <= statement.last_line:
                continue
            found = statement_at(*frame.site[:2])
            if found is not None and (called, part) not in entered:
                entered.add((called, part))
                lane = given.lane_of_call(called.function)
                yield replace(given, statement=found, lane=lane, frame=frame, name="", part=part)

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


@dataclass(frozen=True)
class _Given:
    """A statement in a function with these variables, which gives a lane of a name its value.

    part: where it returns a tuple, which part of that is meant. is_stored: whether the line that is told stores what it
    makes, as it is or as something else; else it has to do with where that goes.
    """

    statement: Statement
    lane: Lane | None
    frame: Frame
    name: str = ""
    part: int | None = None
    is_stored: bool = False

    @property
    def _expressions(self) -> list[ast.expr]:
        returned = self.statement.returned(self.part)
        return self.statement.expressions if returned is None else [returned]

    @property
    def passes_on(self) -> bool:
        """Whether it returns a variable as it is: then what gave that its value says all."""
        return isinstance(self.statement.returned(self.part), ast.Name)

    @property
    def names(self) -> dict[str, Lane | None]:
        """The names that it reads, with their lanes; of a name that it reads twice, the lane that is known."""
        found: dict[str, Lane | None] = {}
        for expression in self._expressions:
            for name, at in lanes_of_names(expression, self.lane):
                if found.get(name) is None:
                    found[name] = at
        return found

    @property
    def is_floating(self) -> bool:
        """Whether the name holds floating-point numbers."""
        held = self.frame.names.get(self.name)
        return isinstance(held, Tensor) and held.dtype.is_floating()

    def lane_of_call(self, function: str) -> Lane | None:
        """The lane of what a function gives back that it calls; None where that is not known."""
        calls = (each for expression in self._expressions for each in lanes_of_calls(expression, self.lane))
        return next((lane for name, lane in calls if name == function), None)


def _nearest(found: list[_Given]) -> list[_Given]:
    """Statements, the last of the file first; of what is stored, numbers that may be no integers before all others."""
    return sorted(found, key=lambda each: (each.is_stored and not each.is_floating, -each.statement.line))
