"""Triton's own interpreter, for comparison."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import triton

from indexfuzz.core.guarantees import Guarantees, Promises
from indexfuzz.devices.base import DeviceError, Session
from indexfuzz.devices.plain import PlainSession
from indexfuzz.reference.arithmetic import PRESETS


@dataclass(frozen=True)
class InterpreterDevice:
    """Triton's own interpreter: slow, and wrong in FP8; for comparison only."""

    name: str = "interpreter"
    torch_device: str = "cpu"
    home: str = "cpu"
    forks: bool = True
    rehearses: bool = False
    formats: tuple[str, ...] = ("e4m3fn",)
    values_per_shape: int = 1
    repeats: int = 3
    unsupported: tuple[type[Exception], ...] = (NotImplementedError,)
    broken: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        if not triton.knobs.runtime.interpret:
            raise DeviceError("device interpreter: set TRITON_INTERPRET=1 before Python starts")

    def probe(self) -> None:
        """A CPU always works."""

    def lacks_memory(self, error: Exception) -> bool:  # noqa: ARG002
        """Never: what takes all memory of a CPU is a finding about the kernel."""
        return False

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Kernels were made for the interpreter when they were imported."""
        yield PlainSession(self.guarantees)

    def guarantees(self, promises: Promises) -> Guarantees:
        """numpy's arithmetic; its maxima do not ignore NaN as those of a GPU do."""
        return Guarantees(replace(promises, nonfinite="contained"), PRESETS["ieee"])
