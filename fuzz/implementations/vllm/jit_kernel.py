"""In the place of vLLM's wrapper around Triton kernels, which compiles them beforehand: it launches, and no more."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, Self


class JitKernel:
    """In the place of vLLM's VllmTritonJitKernel: a subclass has a `kernel`, and compiles nothing beforehand."""

    kernel: Any

    def __class_getitem__(cls, _: object) -> type[Self]:
        """The class itself, whatever its key for compilation."""
        return cls


def launch_what_it_returns(call: Callable[..., Any]) -> Callable[..., None]:
    """In the place of vLLM's kernel_launcher: launch the kernel with the grid and arguments that a call returns.

    Other arguments of the kernel are those of the call, by their names without "_ptr". A `kernel` that it returns takes
    the place of that of the class.
    """
    signature = inspect.signature(call)

    @wraps(call)
    def launch(self: JitKernel, *args: Any, **kwargs: Any) -> None:
        grid, more = call(self, *args, **kwargs)
        kernel = more.pop("kernel", self.kernel)
        bound = signature.bind(self, *args, **kwargs).arguments
        own = {name: bound[short] for name in kernel.arg_names if (short := name.removesuffix("_ptr")) in bound}
        kernel[grid](**own | more)

    return launch


def provide_jit_kernels() -> dict[str, object]:
    """Objects for the names that files with such kernels import."""
    warmup = "vllm.model_executor.warmup"
    return {
        f"{warmup}.jit_warmup.kernel_launcher": launch_what_it_returns,
        f"{warmup}.jit_warmup_triton_helper.VllmTritonJitKernel": JitKernel,
        f"{warmup}.jit_warmup_triton_helper.LaunchSpec": tuple,
    }
