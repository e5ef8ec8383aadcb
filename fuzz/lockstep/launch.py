"""One launch: a grid of programs, run in as few groups as their control flow and the memory allow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from indexfuzz.lockstep import triton_api
from indexfuzz.lockstep.access import Access
from indexfuzz.lockstep.arguments import Arguments, Parameter, parameters
from indexfuzz.lockstep.blame import fault, faults, is_own, place_of
from indexfuzz.lockstep.checkers import Checks, races
from indexfuzz.lockstep.divergence import Divergence
from indexfuzz.lockstep.memory import Allocation
from indexfuzz.lockstep.run import Run
from indexfuzz.lockstep.runtime import RUNTIME
from indexfuzz.lockstep.values import Array, Value
from indexfuzz.lockstep.violations import KernelError, LockstepError, UnsupportedFeature, Violation

if TYPE_CHECKING:
    from indexfuzz.lockstep.coverage import Coverage

MOST_PROGRAMS: Final = 4096
"""Programs that run at once, at most."""


@dataclass(slots=True)
class Launch:
    """What all runs of one launch share."""

    name: str
    grid: tuple[int, int, int]
    arguments: Arguments
    coverage: "Coverage | None"
    violations: list[Violation] = field(default_factory=list)
    reported: set[tuple[str, str, int, str | None]] = field(default_factory=set)
    accesses: list[Access] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Programs in the grid."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    def coordinates(self, program: int) -> tuple[int, int, int]:
        """The program id (x, y, z) of a program; x varies fastest."""
        x, y, _ = self.grid
        return program % x, program // x % y, program // (x * y)

    def program_id(self, run: Run, axis: int) -> Value:
        """The id along one axis, in every program of a run."""
        length = self.grid[axis]
        data: Array
        if length == 1:
            data = np.zeros(1, np.int32)
        else:
            divisor = (1, self.grid[0], self.grid[0] * self.grid[1])[axis]
            data = (run.programs // divisor % length).astype(np.int32)
        low, high = int(data.min()), int(data.max())
        return Value(data[:1] if low == high else data, RUNTIME.builder.get_int32_ty(), low=low, high=high)

    def record(self, violation: Violation) -> None:
        """Keep a violation, once for each kind, line and argument."""
        key = (violation.kind, violation.file, violation.line, violation.argument)
        if key not in self.reported:
            self.reported.add(key)
            self.violations.append(violation)

    def report_race(self, access: Access, program: int | None, offset: int, message: str) -> None:
        """Keep a race, found when the launch is over."""
        site = access.site or access.run.site()
        who = None if program is None else self.coordinates(program)
        pointer = access.pointer
        self.record(
            Violation(
                "race", self.name, site.file, site.line, pointer.argument, who, None, offset - pointer.base, message
            )
        )

    def find(self, address: int) -> tuple[Allocation | None, str | None]:
        """The storage at an address, and the argument that brought it."""
        for key, allocation in self.arguments.allocations.items():
            if allocation.address <= address < allocation.address + max(allocation.size, 1):
                return allocation, self.arguments.names[key]
        return None, None


_KNOWN: Final[dict[int, tuple[Any, tuple[Parameter, ...], frozenset[str]]]] = {}
"""Parameters by the identity of the kernel, which is kept: its own hash reads all its source."""


def _parameters(kernel: Any) -> tuple[tuple[Parameter, ...], frozenset[str]]:
    known = _KNOWN.get(id(kernel))
    if known is None:
        found = parameters(kernel)
        known = _KNOWN[id(kernel)] = kernel, found, frozenset(p.name for p in found)
    return known[1], known[2]


def _bound(kernel: Any, known: Sequence[Parameter], args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name; TypeError where they do not fit the kernel."""
    if len(args) + len(kwargs) == len(known):
        bound = dict(zip([p.name for p in known], args, strict=False)) | kwargs
        if len(bound) == len(known):
            return bound
    with faults():
        given = kernel.signature.bind(*args, **kwargs)
    given.apply_defaults()
    return dict(given.arguments)


def execute(
    kernel: Any,
    grid: Any,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    *,
    arguments: Arguments,
    checks: Checks,
    coverage: "Coverage | None",
) -> list[Violation]:
    """Run a kernel over a grid; what it did wrong.

    Raises UnsupportedFeature for a feature that is missing, KernelError where the kernel's own code raises.
    """
    known, names = _parameters(kernel)
    bound = _bound(kernel, known, args, {k: v for k, v in kwargs.items() if k in names})
    dims = _dimensions(grid, {**bound, **{k: v for k, v in kwargs.items() if k not in names}})
    launch = Launch(kernel.fn.__name__, dims, arguments, coverage)
    if launch.total == 0:
        return []
    try:
        values = [arguments.convert(p, bound[p.name]) for p in known]
    except UnsupportedFeature as error:
        raise UnsupportedFeature(f"{triton_api.place_of(kernel)}: in {launch.name}: {error}") from None
    RUNTIME.launch += 1
    waiting = [
        np.arange(start, min(start + MOST_PROGRAMS, launch.total)) for start in range(0, launch.total, MOST_PROGRAMS)
    ]
    waiting.reverse()
    while waiting:
        programs = waiting.pop()
        parts = _run(kernel, values, Run(launch, programs, checks))
        waiting.extend(programs[part] for part in reversed(parts))
    if checks.races:
        races.check_launch(launch)
    return launch.violations


def _run(kernel: Any, values: list[Any], run: Run) -> list[Array]:
    builder = RUNTIME.builder
    builder.run = run
    finished = False
    try:
        with np.errstate(all="ignore"):
            RUNTIME.call_jit(kernel, list(values), {})
        finished = True
    except Divergence as divergence:
        return divergence.parts
    except (UnsupportedFeature, KernelError):
        raise
    except NotImplementedError as error:
        raise UnsupportedFeature(f"{place_of(error)}: in {run.launch.name}: {error}") from error
    except Exception as error:
        words = f"{place_of(error)}: in {run.launch.name}: {type(error).__name__}: {error}"
        if is_own(error):
            raise LockstepError(f"{words} (an error of lockstep itself)") from error
        raise KernelError(words) from error
    finally:
        del builder.run
        if not finished:
            run.roll_back()
    run.complete()
    return []


def _dimensions(grid: Any, bound: dict[str, Any]) -> tuple[int, int, int]:
    if isinstance(grid, Callable):  # type: ignore[arg-type]
        grid = grid(bound)
    with faults():
        sizes = [int(g) for g in (grid if isinstance(grid, Sequence) else (grid,))]
    if not 1 <= len(sizes) <= 3 or min(sizes) < 0:
        raise fault(ValueError(f"a grid has one to three sizes of at least 0, got {tuple(sizes)}"))
    x, y, z = (*sizes, 1, 1)[:3]
    return x, y, z
