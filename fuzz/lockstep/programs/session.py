"""From settings to a machine that takes every launch of a program, with a driver and, where asked for, a GPU."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from indexfuzz.lockstep.programs.cuda import imitate_cuda
from indexfuzz.lockstep.programs.machine import RecordingLockstep
from indexfuzz.lockstep.programs.record import Record
from indexfuzz.lockstep.tracking.checks import ALL_CHECKERS, OPTIONAL_CHECKERS
from indexfuzz.lockstep.triton_api.driver import is_interpreting, stand_in_driver

DEVICES: Final = ("cpu", "cuda")
"""What `device` may be: tensors are where the program puts them, or everything that asks for CUDA is on the CPU."""


@dataclass(frozen=True)
class Settings:
    """How a program runs in lockstep; `checkers` is a list with commas, or "all"; the usual ones where empty."""

    device: str = DEVICES[0]
    dot: str = "ieee"
    configs: str = "first"
    checkers: str = ""
    report: Path | None = None


@contextmanager
def take_launches(settings: Settings) -> Iterator[RecordingLockstep]:
    """Run every launch in lockstep until the block ends.

    Raises ValueError for a setting that there is not, and where Triton has been told to interpret kernels itself.
    """
    if settings.device not in DEVICES:
        raise ValueError(f"unknown device {settings.device!r}; there are {', '.join(DEVICES)}")
    if settings.report is not None and not settings.report.absolute().parent.is_dir():
        raise ValueError(f"the report cannot be written: {settings.report.absolute().parent} is no folder")
    if is_interpreting():
        raise ValueError("TRITON_INTERPRET is set, so Triton's interpreter would run the kernels; unset it")
    names = tuple(name.strip() for name in settings.checkers.split(",") if name.strip()) or ALL_CHECKERS
    if names == ("all",):
        names = ALL_CHECKERS + OPTIONAL_CHECKERS
    with ExitStack() as stack:
        placement = stack.enter_context(imitate_cuda()) if settings.device == "cuda" else None
        machine = RecordingLockstep(Record(), placement, dot=settings.dot, checkers=names, configs=settings.configs)
        stack.enter_context(stand_in_driver())
        yield stack.enter_context(machine)
