"""A machine for whole programs: it records every launch, and gives back what a compiled kernel would be."""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

from indexfuzz.lockstep.executor import Lockstep, count_ordered
from indexfuzz.lockstep.programs.placement import Placement
from indexfuzz.lockstep.programs.record import BROKE, FAILED, RAN, REFUSED, LaunchRecord, Record, describe_arguments
from indexfuzz.lockstep.source.search import find_violation
from indexfuzz.lockstep.source.trace import trace
from indexfuzz.lockstep.tracking.attribution import blame_kernel
from indexfuzz.lockstep.tracking.moments import Recorder
from indexfuzz.lockstep.tracking.violations import KernelError, LockstepError, UnsupportedFeature, Violation
from indexfuzz.lockstep.triton_api.functions import location_of


class Uncompiled:
    """What a launch gives back in place of a compiled kernel: it can be launched again, and has nothing to look at."""

    def __init__(self, launch: Callable[[Any, tuple[Any, ...]], Any]) -> None:
        self._launch = launch

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        return lambda *args, stream=None: self._launch(grid, args)  # noqa: ARG005 - the name is Triton's

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UnsupportedFeature(f"nothing is compiled, so a launch gives back no {name}")


class RecordingLockstep(Lockstep):
    """A Lockstep that records its launches, for one test after another; the options are those of Lockstep."""

    def __init__(self, record: Record, placement: Placement | None = None, **options: Any) -> None:
        super().__init__(coverage=record.coverage, recorder=Recorder(accesses=False), **options)
        self.record = record
        self._placement = placement
        self.test = ""
        self._places: dict[int, tuple[Any, str]] = {}

    def _launch(self, kernel: Any, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with nullcontext() if self._placement is None else self._placement.paused():
            self._record(kernel, grid, args, kwargs)
        given = {**dict(zip(kernel.arg_names, args, strict=False)), **kwargs}
        variable = {p.name for p in kernel.params if not p.is_constexpr}
        return Uncompiled(partial(self._launch_again, kernel, {k: v for k, v in given.items() if k not in variable}))

    def _launch_again(self, kernel: Any, constants: dict[str, Any], grid: Any, args: tuple[Any, ...]) -> Any:
        """Launch what was compiled with these constants and options; args are all, or all that are no constants."""
        names: list[str] = kernel.arg_names
        if len(args) != len(names):
            names = [p.name for p in kernel.params if not p.is_constexpr]
        if len(args) != len(names):
            raise blame_kernel(TypeError(f"{kernel.fn.__name__} is launched again with {len(args)} arguments"))
        return self._launch(kernel, grid, (), {**constants, **dict(zip(names, args, strict=True))})

    def _record(self, kernel: Any, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        before = len(self.violations)
        outcome, reason, ordered = RAN, "", Counter[str]()
        try:
            with count_ordered() as ordered:
                super()._launch(kernel, grid, args, kwargs)
        except UnsupportedFeature as error:
            outcome, reason = REFUSED, str(error)
            raise
        except LockstepError as error:
            outcome, reason = BROKE, str(error)
            raise
        except KernelError as error:
            outcome, reason = FAILED, str(error)
            raise
        except Exception as error:
            outcome, reason = FAILED, f"{type(error).__name__}: {error}"
            raise
        finally:
            self.record.launches.append(
                LaunchRecord(
                    kernel.fn.__name__,
                    self._place_of(kernel),
                    describe_arguments(kernel.arg_names, args, kwargs),
                    outcome,
                    reason,
                    self.test,
                    tuple(self.violations[before:]),
                    tuple(self._tell(violation) for violation in self.violations[before:]),
                    bool(ordered),
                )
            )
            self.recorder = Recorder(accesses=False)

    def _tell(self, violation: Violation) -> str:
        """The line of a violation with its values, as text; empty where it showed only after the launch."""
        v = violation
        found = self.recorder and find_violation(self.recorder, v.kind, v.argument or "", v.file, v.line)
        told = trace(*found) if found else None
        return "\n".join(told.sentences()) if told else ""

    def _place_of(self, kernel: Any) -> str:
        known = self._places.get(id(kernel))
        if known is None:
            known = self._places[id(kernel)] = kernel, location_of(kernel)
        return known[1]
