"""Kernels written for AMD GPUs, launched where the compiler is another one."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

from triton.runtime.jit import KernelInterface

AMD_OPTIONS = frozenset({"waves_per_eu", "matrix_instr_nonkdim", "kpack"})
"""Hints to AMD's compiler, which change no result; other compilers refuse them."""


@dataclass(frozen=True)
class AmdKernel:
    """A kernel without those hints that are none of its own parameters.

    A launch always returns something with a hash, by which AITER's wrappers look the compiled kernel up.
    """

    kernel: Any

    def __getitem__(self, grid: object) -> Callable[..., Any]:
        launch, hints = self.kernel[grid], AMD_OPTIONS.difference(getattr(self.kernel, "arg_names", ()))

        def portable(*args: Any, **kwargs: Any) -> Any:
            own = {name: value for name, value in kwargs.items() if name not in hints}
            return launch(*args, **own) or SimpleNamespace(hash="00")

        return portable


def make_portable(module: ModuleType) -> ModuleType:
    """Replace the Triton kernels among a module's names; returns the module."""
    for name, value in list(vars(module).items()):
        if isinstance(value, KernelInterface):
            setattr(module, name, AmdKernel(value))
    return module
