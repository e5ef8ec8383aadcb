"""Devices that run kernels as Triton itself does: a CUDA GPU, and Triton's interpreter for comparison."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from indexfuzz.devices.base import DeviceError, Session, Trespass
from indexfuzz.reference.arithmetic import PRESETS
from indexfuzz.terms import Promises, Terms


class PlainSession:
    """A session that notices nothing by itself: guards and poison have to."""

    def declare(self, name: str, tensor: Tensor, initialised: Tensor | bool) -> None:  # noqa: FBT001
        """Nothing to track."""

    def trespasses(self) -> list[Trespass]:
        """Nothing noticed."""
        return []


@dataclass(frozen=True)
class CudaDevice:
    """An NVIDIA GPU; kernels are compiled as they come."""

    name: str = "cuda"
    torch_device: str = "cuda"
    formats: tuple[str, ...] = ("e4m3fn",)
    unsupported: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        if not torch.cuda.is_available():
            raise DeviceError("device cuda: PyTorch sees no CUDA GPU here; use --device lockstep")

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Run, then wait, so that a fault is blamed on the case that caused it."""
        yield PlainSession()
        torch.cuda.synchronize()

    def terms(self, promises: Promises) -> Terms:
        """The envelope of the matrix units that a kernel may have been compiled to."""
        return Terms(promises, PRESETS["sm90"])


@dataclass(frozen=True)
class InterpreterDevice:
    """Triton's own interpreter: slow, and wrong in FP8; for comparison only."""

    name: str = "interpreter"
    torch_device: str = "cpu"
    formats: tuple[str, ...] = ("e4m3fn",)
    unsupported: tuple[type[Exception], ...] = (NotImplementedError,)

    def __post_init__(self) -> None:
        if not triton.knobs.runtime.interpret:
            raise DeviceError("device interpreter: set TRITON_INTERPRET=1 before Python starts")

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Kernels were made for the interpreter when they were imported."""
        yield PlainSession()

    def terms(self, promises: Promises) -> Terms:
        """numpy's arithmetic; its maxima do not ignore NaN as those of a GPU do."""
        return Terms(replace(promises, nonfinite="contained"), PRESETS["ieee"])
