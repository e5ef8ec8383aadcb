"""Whose fault an error is that ends a launch: the kernel's, its launcher's, or the executor's own.

The innermost frame that belongs to no library decides. Where it is one of the executor's, the error is the executor's,
unless it was raised in the kernel's name: a rule of the language was broken.
"""

import sys
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Final, TypeVar

from indexfuzz.lockstep.tracking.sites import MARKER
from indexfuzz.lockstep.tracking.violations import KernelCompilationError, KernelError

E = TypeVar("E", bound=Exception)

_PACKAGE: Final = __name__.removesuffix(".tracking.attribution")
_LIBRARIES: Final = sys.stdlib_module_names | {"numpy"}
_MARK: Final = "_in_the_kernels_name"


def blame_kernel(error: E, becomes: type[KernelError] = KernelCompilationError) -> E:
    """An error that the executor raises in the kernel's name, marked with what the launch is to end with."""
    setattr(error, _MARK, becomes)
    return error


def blamed_as(error: Exception) -> type[KernelError]:
    """What a launch ends with for an error that is the kernel's; Triton finds most of them while it compiles."""
    becomes: type[KernelError] = getattr(error, _MARK, KernelCompilationError)
    return becomes


class _KernelsName:
    """A context that has nothing to remember; one is enough for all, and costs less than one that is made anew."""

    def __enter__(self) -> None:
        """Nothing is to be done."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Blame the kernel for what ends the block."""
        if isinstance(error, Exception):
            blame_kernel(error)


_KERNELS_NAME: Final = _KernelsName()


def blaming_kernel() -> _KernelsName:
    """Where Python's own code runs in the kernel's name; what it raises is the kernel's."""
    return _KERNELS_NAME


def is_own(error: Exception) -> bool:
    """Whether an error is the executor's own."""
    if getattr(error, _MARK, False):
        return False
    owner = ""
    for frame, _ in _frames(error):
        names = frame.f_globals
        module = str(names.get("__name__", ""))
        if MARKER in names:
            owner = "kernel"
        elif module.partition(".")[0] not in _LIBRARIES:
            owner = module
    return owner.startswith(_PACKAGE)


def kernel_line(error: Exception) -> str:
    """file:line of the innermost line of a kernel that an error passed through."""
    place = "<unknown>"
    for frame, line in _frames(error):
        if MARKER in frame.f_globals:
            place = f"{frame.f_code.co_filename}:{line}"
    return place


def _frames(error: Exception) -> Iterator[tuple[FrameType, int]]:
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next
