"""What Triton compiles of a launch: types, constants and attributes of the arguments, and the options."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import create_function_from_signature

DEFAULTS: Final = {"enable_fp_fusion": True}
"""Options where a launch does not say; Triton 3.9 warns that the default of this one will change."""

_BINDERS: Final[dict[tuple[int, Any], tuple[Any, Any, Any]]] = {}
"""By the identity of the kernel, which is kept: its own hash reads all its source."""


class Specialised(NamedTuple):
    """Triton's types by argument, constants and attributes by their paths; the backend and its options."""

    backend: Any
    options: Any
    types: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]


def specialise_arguments(kernel: Any, args: Sequence[Any], kwargs: Mapping[str, Any], gpu: GPUTarget) -> Specialised:
    """As Triton binds the arguments of a launch on that GPU.

    Raises what Triton does for arguments that do not fit the kernel, or options that the GPU does not have.
    """
    known = _BINDERS.get((id(kernel), gpu.arch))
    if known is None:
        backend = make_backend(gpu)
        bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        known = _BINDERS[id(kernel), gpu.arch] = kernel, backend, bind
    _, backend, bind = known
    given = {**DEFAULTS, "debug": kernel.debug or knobs.runtime.debug, **kwargs}
    bound, found, _ = bind(*args, **given)
    return Specialised(backend, *kernel._pack_args(backend, given, bound, found, given))  # noqa: SLF001
