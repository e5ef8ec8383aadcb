"""A launch and its runs: some of its programs from the first line to the last, or until they diverge."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from indexfuzz.lockstep.tracking.access import Access
from indexfuzz.lockstep.tracking.checks import Checks
from indexfuzz.lockstep.tracking.coverage import Coverage, Record
from indexfuzz.lockstep.tracking.moments import Called, Frame, Moment, Recorder, ending_frame, running_frames
from indexfuzz.lockstep.tracking.sites import Site, author_site, current_site
from indexfuzz.lockstep.tracking.violations import Violation
from indexfuzz.lockstep.values.arrays import Array, Mask, Undo
from indexfuzz.lockstep.values.buffers import Mark
from indexfuzz.lockstep.values.memory import Allocation
from indexfuzz.lockstep.values.value import Value


@dataclass(slots=True)
class Launch:
    """What all runs of one launch share.

    is_ordered says that the checker `order` looked at every run as a whole, is_compiled that Triton was asked whether
    it compiles the kernel for these values, is_alike for others that differ in sizes; joined has the types of names
    behind branches, by branch and way; entered and idle are loops that some programs entered, and that some did not.
    is_closed says that neither addresses nor what is known to be unwritten had a part in what it did: nothing but its
    arguments and the bytes behind them.
    """

    name: str
    grid: tuple[int, int, int]
    allocations: dict[int, Allocation]
    coverage: Coverage | None
    num_warps: int
    recorder: Recorder | None = None
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    reported: set[tuple[str, str, int, str | None]] = field(default_factory=set)
    accesses: list[Access] = field(default_factory=list)
    is_ordered: bool = False
    kernel: Any = None
    values: Sequence[Any] = ()
    is_compiled: bool = False
    is_alike: bool = False
    is_closed: bool = True
    joined: dict[Any, dict[bool, tuple[Any, ...]]] = field(default_factory=dict)
    entered: set[Any] = field(default_factory=set)
    idle: set[Any] = field(default_factory=set)

    @property
    def total(self) -> int:
        """Programs in the grid."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    def coordinates(self, program: int) -> tuple[int, int, int]:
        """The program id (x, y, z) of a program; x varies fastest."""
        x, y, _ = self.grid
        return program % x, program // x % y, program // (x * y)

    def record(self, violation: Violation) -> None:
        """Keep a violation, once for each kind, line and argument."""
        key = (violation.kind, violation.file, violation.line, violation.argument)
        if key not in self.reported:
            self.reported.add(key)
            self.violations.append(violation)


@dataclass(slots=True)
class Run:
    """The programs of one run, by their number in the launch, and everything that is forgotten if they diverge.

    ids has the program ids that were asked for, by axis; count says how many programs there are.
    """

    launch: Launch
    programs: Array
    checks: Checks
    undo: list[Undo | Mark] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    accesses: list[Access] = field(default_factory=list)
    undefined: list[Access] = field(default_factory=list)
    coverage: list[Record] = field(default_factory=list)
    ids: dict[int, Value] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)
    returned: dict[Called, Frame] = field(default_factory=dict)
    atomics: int = 0
    barriers: int = 0
    depends_on_order: bool = False
    count: int = field(init=False)

    def __post_init__(self) -> None:
        self.count = int(self.programs.shape[0])

    def count_atomic(self, order: tuple[Any, ...]) -> None:
        """Count an atomic that orders memory: accesses before it and after it in another program do not race."""
        if not any(getattr(o, "name", "") == "RELAXED" for o in order):
            self.atomics += 1

    def note_undefined(self, access: Access, lanes: Mask) -> None:
        """Remember a load that gave nothing defined in these lanes."""
        access.undefined, access.site = lanes, access.site or current_site()
        self.undefined.append(access)

    def note_mask(self, kind: str, mask: Mask | None) -> None:
        """Note for the coverage whether a mask was true, false, or both; not what Triton's library does inside."""
        if self.launch.coverage is None or (mask is not None and not mask.size):
            return
        site = author_site()
        if site is not None:
            self.coverage.append(Record.of(site, kind, mask))

    def has_reported(self, kind: str, value: Value, site: Site) -> bool:
        """Whether a line already has this kind for this argument."""
        key = (kind, site.file, site.line, value.argument)
        return key in self.launch.reported or any((v.kind, v.file, v.line, v.argument) == key for v in self.violations)

    def report(self, kind: str, value: Value, lanes: Mask, message: str, source: Value | None = None) -> None:
        """Report the first marked lane, unless this line already has this kind for this argument.

        `source` is the pointer to blame, where that is another one.
        """
        site = current_site()
        if self.has_reported(kind, value, site):
            return
        shape = np.broadcast_shapes(lanes.shape, value.data.shape) if value.data.ndim == lanes.ndim else lanes.shape
        index = np.unravel_index(int(np.argmax(np.broadcast_to(lanes, shape))), shape)
        offset: int | None = None
        is_known = value.undefined is None or not np.broadcast_to(value.undefined, shape)[index]
        if value.allocation is not None and is_known:
            offset = int(np.broadcast_to(value.data, shape)[index]) - value.base
        program = self.launch.coordinates(int(self.programs[int(index[0])]))
        lane = tuple(int(i) for i in index[1:])
        violation = Violation(
            kind,
            self.launch.name,
            site.file,
            site.line,
            value.argument,
            program,
            lane,
            offset,
            message,
            (value if source is None else source).address,
        )
        self.violations.append(violation)
        if self.launch.recorder is not None:
            self.keep_moment(value, violation=violation)

    def keep_moment(
        self,
        pointer: Value,
        *,
        access: Access | None = None,
        violation: Violation | None = None,
        stored: tuple[Value, ...] = (),
    ) -> None:
        """Keep what the variables of the kernel hold now, for the launch's recorder."""
        launch = self.launch
        self.moments.append(
            Moment(
                running_frames(),
                launch.grid,
                launch.name,
                self.programs,
                pointer,
                tuple(self.accesses),
                launch.tensors,
                access,
                violation,
                stored,
                dict(self.returned),
            )
        )

    def note_return(self) -> None:
        """Keep what the variables of a function hold that now returns, for the launch's recorder, if there is one."""
        if self.launch.recorder is not None and (ending := ending_frame()):
            called, frame = ending
            self.returned[called] = frame

    def roll_back(self) -> None:
        """Take every store back, the last one first."""
        for undo in reversed(self.undo):
            undo.roll_back()

    def complete(self) -> None:
        """Keep what the run did."""
        launch = self.launch
        for violation in self.violations:
            launch.record(violation)
        for access in self.accesses:
            access.released = access.epoch < self.atomics
        launch.accesses.extend(self.accesses)
        if launch.recorder is not None:
            launch.recorder.moments.extend(self.moments)
        if launch.coverage is not None:
            launch.coverage.add(self.coverage)
