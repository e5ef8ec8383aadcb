"""One launch: a grid of programs, run in as few groups as their control flow and the memory allow."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from indexfuzz.lockstep.arguments import Arguments, Parameter, parameters
from indexfuzz.lockstep.checkers.order import check_order
from indexfuzz.lockstep.checkers.races import check_races
from indexfuzz.lockstep.language.helpers import RUNTIME
from indexfuzz.lockstep.tracking.attribution import blame_kernel, blamed_as, blaming_kernel, is_own, kernel_line
from indexfuzz.lockstep.tracking.checks import Checks
from indexfuzz.lockstep.tracking.coverage import Coverage
from indexfuzz.lockstep.tracking.divergence import Divergence
from indexfuzz.lockstep.tracking.moments import Launched, Recorder, calling_lines
from indexfuzz.lockstep.tracking.recall import describe_launch
from indexfuzz.lockstep.tracking.run import Launch, Run
from indexfuzz.lockstep.tracking.violations import (
    KernelError,
    LockstepError,
    OutOfSharedMemoryError,
    UnsupportedFeature,
    Violation,
)
from indexfuzz.lockstep.triton_api.functions import bind_plainly, defaults_of, is_plain, location_of
from indexfuzz.lockstep.triton_api.shared_memory import LIMIT, explain_shared_memory
from indexfuzz.lockstep.values.arrays import Array

_LIMITS: Final = (2**31 - 1, 65535, 65535)
"""Programs along x, y and z that a CUDA launch takes at most."""

_WARPS: Final = 4
"""Warps of a program for which the launch does not say how many."""

_MOST_WARPS: Final = 32

MOST_PROGRAMS: Final = 4096
"""Programs that run at once, at most."""


class _Signature(NamedTuple):
    """What a kernel takes."""

    kernel: Any
    parameters: tuple[Parameter, ...]
    names: tuple[str, ...]
    defaults: dict[str, Any]
    is_plain: bool


_KNOWN: Final[dict[int, _Signature]] = {}
"""Signatures by the identity of the kernel, which is kept: its own hash reads all its source."""


def _signature(kernel: Any) -> _Signature:
    known = _KNOWN.get(id(kernel))
    if known is None:
        found, signature = parameters(kernel), kernel.signature
        names = tuple(p.name for p in found)
        known = _Signature(kernel, found, names, defaults_of(signature), is_plain(signature))
        _KNOWN[id(kernel)] = known
    return known


def _bind(kernel: Any, known: _Signature, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, in order; TypeError where they do not fit the kernel."""
    values = bind_plainly(known.names, known.defaults, args, kwargs) if known.is_plain else None
    if values is not None:
        return dict(zip(known.names, values, strict=True))
    with blaming_kernel():
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
    coverage: Coverage | None,
    recorder: Recorder | None = None,
) -> list[Violation]:
    """Run a kernel over a grid; what it did wrong.

    Raises UnsupportedFeature for a feature that is missing, KernelError where the kernel's own code raises.
    """
    if kernel.is_gluon():
        raise UnsupportedFeature(f"{location_of(kernel)}: {kernel.fn.__name__} is a kernel of Gluon, not of Triton")
    known = _signature(kernel)
    bound = _bind(kernel, known, args, {k: v for k, v in kwargs.items() if k in known.names})
    _check_warps(kwargs.get("num_warps", _WARPS))
    dims = _dimensions(grid, {**bound, **{k: v for k, v in kwargs.items() if k not in known.names}})
    launch = Launch(
        kernel.fn.__name__, dims, arguments.allocations, coverage, kwargs.get("num_warps", _WARPS), recorder
    )
    if recorder is not None:
        launch.tensors = {name: value for name, value in bound.items() if isinstance(value, torch.Tensor)}
        recorder.launches.append(Launched(launch.name, location_of(kernel), calling_lines(), known.names))
    if launch.total == 0:
        return []
    try:
        values = [arguments.convert(p, bound[p.name]) for p in known.parameters]
    except UnsupportedFeature as error:
        raise UnsupportedFeature(f"{location_of(kernel)}: in {launch.name}: {error}") from None
    if checks.shared:
        _check_shared_memory(kernel, {**kwargs, **bound})
    launch.kernel, launch.values = kernel, values
    launch.is_ordered = checks.order and launch.num_warps > 1
    recall = RUNTIME.recall if recorder is None and not checks.order else None
    described = describe_launch(launch, (RUNTIME.builder.model, checks), bound) if recall else None
    if recall and described and recall.put_back(launch, described):
        return []
    RUNTIME.launch += 1
    RUNTIME.builder.options.num_warps = launch.num_warps
    waiting = [
        np.arange(start, min(start + MOST_PROGRAMS, launch.total)) for start in range(0, launch.total, MOST_PROGRAMS)
    ]
    waiting.reverse()
    while waiting:
        programs = waiting.pop()
        parts = _run(kernel, values, Run(launch, programs, checks))
        waiting.extend(programs[part] for part in reversed(parts))
    RUNTIME.settle(launch)
    if checks.races:
        check_races(launch)
    if RUNTIME.ordered is not None and launch.is_ordered:
        RUNTIME.ordered[launch.name] += 1
    if recall and described:
        recall.keep(launch, described)
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
        if run.depends_on_order:
            return [half for part in divergence.parts for half in _halves(part)]
        return divergence.parts
    except KernelError:
        raise
    except UnsupportedFeature:
        RUNTIME.ask(run.launch)
        raise
    except NotImplementedError as error:
        RUNTIME.ask(run.launch)
        raise UnsupportedFeature(f"{kernel_line(error)}: in {run.launch.name}: {error}") from error
    except Exception as error:
        words = f"{kernel_line(error)}: in {run.launch.name}: {type(error).__name__}: {error}"
        if is_own(error):
            RUNTIME.ask(run.launch)
            raise LockstepError(f"{words} (an error of lockstep itself)") from error
        raise blamed_as(error)(words) from error
    finally:
        del builder.run
        if not finished:
            run.roll_back()
    if run.checks.order and run.launch.num_warps > 1:
        run.launch.is_ordered &= check_order(run)
    run.complete()
    return []


def _halves(part: Array) -> list[Array]:
    """A group of programs in two: what an atomic gave them may differ next time, and most of them may then wait."""
    return [half for half in np.array_split(part, 2) if half.size]


def _dimensions(grid: Any, bound: dict[str, Any]) -> tuple[int, int, int]:
    if callable(grid):
        grid = grid(bound)
    with blaming_kernel():
        sizes = [int(g) for g in (grid if isinstance(grid, Sequence) else (grid,))]
    if not 1 <= len(sizes) <= 3 or min(sizes) < 0:
        raise blame_kernel(ValueError(f"a grid has one to three sizes of at least 0, got {tuple(sizes)}"))
    for axis, size in enumerate(sizes):
        if size > _LIMITS[axis]:
            raise blame_kernel(ValueError(_explain_limit(axis, size, bound)))
    x, y, z = (*sizes, 1, 1)[:3]
    return x, y, z


def _check_warps(count: int) -> None:
    """Refuse a number of warps that no GPU launches; ValueError."""
    if count < 1 or count & (count - 1):
        raise blame_kernel(ValueError(f"num_warps={count}: Triton takes powers of two"))
    if count > _MOST_WARPS:
        threads = f"{32 * count} threads a program, as num_warps={count}"
        raise blame_kernel(ValueError(f"{threads}; a GPU launches at most {32 * _MOST_WARPS}"))


def _check_shared_memory(kernel: Any, given: dict[str, Any]) -> None:
    """Refuse a launch whose programs need more shared memory than there is; OutOfSharedMemoryError."""
    wrong = explain_shared_memory(kernel, given)
    if wrong is not None:
        needed, words = wrong
        raise OutOfSharedMemoryError(f"{location_of(kernel)}: in {kernel.fn.__name__}: {words}", needed, LIMIT)


def _explain_limit(axis: int, size: int, bound: dict[str, Any]) -> str:
    """What is wrong with a grid that no GPU launches, and the arguments that are as large."""
    same = [
        name
        for name, value in bound.items()
        if (type(value) is int and value == size) or (isinstance(value, torch.Tensor) and size in value.shape)
    ]
    why = f", as large as {' and '.join(same)}" if same else ""
    return f"a grid of {size} programs along {'xyz'[axis]}{why}; a GPU launches at most {_LIMITS[axis]}"
