"""What the variables of a kernel held when something happened: kept only where a launch is given a recorder."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from types import FrameType
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from indexfuzz.lockstep.tracking.access import Access
from indexfuzz.lockstep.tracking.sites import MARKER, Site
from indexfuzz.lockstep.tracking.violations import Violation
from indexfuzz.lockstep.triton_api.functions import is_language_source
from indexfuzz.lockstep.triton_api.types import Constexpr
from indexfuzz.lockstep.values.arrays import Array
from indexfuzz.lockstep.values.value import Value

MOST_ACCESSES: Final = 4096
"""Accesses that a recorder keeps, the first ones; each holds on to the variables of its kernel."""

MOST_CALLERS: Final = 16
"""Lines that are kept of what led to a launch."""

OWN: Final = (__name__.rpartition(".tracking")[0], "triton.")
"""Modules of lockstep and Triton begin so."""

_frame: Final = sys._getframe  # noqa: SLF001 - inspect has no cheap way


@dataclass(frozen=True, slots=True)
class Frame:
    """A function of a kernel that was running: the line, and its variables by name."""

    site: Site
    names: dict[str, Any]

    @property
    def constants(self) -> dict[str, Any]:
        """The variables that are known while compiling."""
        return {name: held.value for name, held in self.names.items() if isinstance(held, Constexpr)}


class Called(NamedTuple):
    """A call inside a kernel: the line that calls, and the function that is called there, the last time it is."""

    file: str
    line: int
    function: str


@dataclass(frozen=True, slots=True)
class Moment:
    """One access, or one violation, of all programs of a run.

    frames: the functions that were running, the innermost first; none where no line of a kernel did it. pointer is what
    was accessed, or the value that a violation is about, stored what was to be stored there. before: the accesses of
    the run until then, in order. returned: functions that were called and have ended, as they were when they did.
    """

    frames: tuple[Frame, ...]
    grid: tuple[int, int, int]
    kernel: str
    programs: Array
    pointer: Value
    before: tuple[Access, ...]
    tensors: dict[str, torch.Tensor]
    access: Access | None = None
    violation: Violation | None = None
    stored: tuple[Value, ...] = ()
    returned: Mapping[Called, Frame] = field(default_factory=dict)

    def row_of(self, program: int) -> int:
        """Where a program, by its number in the launch, stands among those of the run; -1 where it does not."""
        found = np.flatnonzero(self.programs == program)
        return int(found[0]) if found.size else -1

    def coordinates(self, program: int) -> tuple[int, int, int]:
        """The program id (x, y, z) of a program by its number in the launch."""
        x, y, _ = self.grid
        return program % x, program // x % y, program // (x * y)


class Line(NamedTuple):
    """A line of Python that was running, and the name of its module."""

    module: str
    file: str
    number: int


class Launched(NamedTuple):
    """A launch: its kernel, file:line of the definition, the lines that led to it, the innermost first.

    parameters: the names of the kernel's arguments, in order.
    """

    kernel: str
    place: str
    callers: tuple[Line, ...]
    parameters: tuple[str, ...]


@dataclass(slots=True)
class Recorder:
    """Keeps moments: every violation, and with ``accesses`` every access, too."""

    accesses: bool = True
    moments: list[Moment] = field(default_factory=list)
    launches: list[Launched] = field(default_factory=list)

    def wants_accesses(self) -> bool:
        """Whether an access is to be kept now."""
        return self.accesses and len(self.moments) < MOST_ACCESSES


def calling_lines() -> tuple[Line, ...]:
    """The lines that are running, without those of lockstep and of Triton, the innermost first."""
    found: list[Line] = []
    frame: FrameType | None = _frame(1)
    while frame is not None and len(found) < MOST_CALLERS:
        module = frame.f_globals.get("__name__", "")
        if not module.startswith(OWN):
            found.append(Line(module, frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return tuple(found)


def running_frames() -> tuple[Frame, ...]:
    """The functions of the kernel that are running, without those of Triton's own library."""
    return tuple(map(_copy, _running()))


def ending_frame() -> tuple[Called, Frame] | None:
    """The innermost function of the kernel with the call of it; None where Triton's library called it, or nobody."""
    frame, caller = islice(chain(_running(), (None, None)), 2)
    if frame is None or caller is None:
        return None
    return Called(caller.f_code.co_filename, caller.f_lineno, frame.f_code.co_name), _copy(frame)


def _running() -> Iterator[FrameType]:
    """The frames of a kernel's own functions, the innermost first."""
    frame: FrameType | None = _frame(1)
    while frame is not None:
        names = frame.f_globals
        if MARKER in names and not is_language_source(names["__name__"]) and frame.f_code.co_name != "<lambda>":
            yield frame
        frame = frame.f_back


def _copy(frame: FrameType) -> Frame:
    site = Site(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
    return Frame(site, dict(frame.f_locals))
