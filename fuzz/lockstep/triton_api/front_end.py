"""Triton's own front end, asked whether it compiles a kernel; it needs no GPU."""

from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any, Final

from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend

from indexfuzz.lockstep.triton_api.driver import CAPABILITY, H100, stand_in_driver
from indexfuzz.lockstep.triton_api.errors import CompilationError
from indexfuzz.lockstep.triton_api.types import OPTIONS, Constexpr, Tensor, Tuple, unwrap

TARGET: Final = GPUTarget("cuda", 10 * CAPABILITY[0] + CAPABILITY[1], H100["warpSize"])
"""The GPU for which Triton is asked."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What Triton says of a kernel that it does not compile: the kind of error, its words, and a line of a source.

    Nothing of the error itself, whose frames would keep what the compiler made.
    """

    kind: type[CompilationError]
    words: str
    source: str | None
    line: int


def find_refusal(kernel: Any, values: Sequence[Any], num_warps: int) -> Refusal | None:
    """Why Triton does not compile a kernel for arguments as it sees them; None where it does.

    All FP8 formats count as there: which of them a GPU has is no question of the kernel. LookupError for an argument
    that has no name in a signature here.
    """
    signature = [_signature(value) for value in values]
    constants: dict[tuple[int, ...], Any] = {}
    for i, value in enumerate(values):
        _collect(value, (i,), constants)
    source = ASTSource(kernel, dict(zip(kernel.arg_names, signature, strict=True)), constants)
    backend = make_backend(TARGET)
    options = backend.parse_options(
        {"num_warps": num_warps, "enable_fp_fusion": True, "supported_fp8_dtypes": OPTIONS.supported_fp8_dtypes}
    )
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    functions = backend.get_codegen_implementation(options) | {"min_dot_size": lambda *_: (1, 1, 1)}
    try:
        with stand_in_driver(), redirect_stdout(StringIO()):
            source.make_ir(TARGET, options, functions, backend.get_module_map(), context)
    except CompilationError as error:
        return _describe(error)
    except RuntimeError as error:
        words = f"Triton's verifier refuses what it makes of the kernel: {error}"
        return Refusal(CompilationError, words, None, 1)
    return None


def _describe(error: CompilationError) -> Refusal:
    """The error of the line itself, not of the calls that led to it."""
    while isinstance(error.__cause__, CompilationError):
        error = error.__cause__
    return Refusal(type(error), error.error_message or str(error), error.src, getattr(error.node, "lineno", 1))


def _signature(value: Any) -> Any:
    """An argument's type as a signature has it."""
    if isinstance(value, Constexpr):
        return "constexpr"
    if isinstance(value, Tuple):
        return tuple(_signature(part) for part in value)
    if type(value) is not Tensor:
        raise LookupError(type(value).__name__)
    ty = value.type
    if ty.is_ptr():
        return f"*{'k' if ty.const else ''}{_scalar(ty.element_ty)}"
    return _scalar(ty)


def _scalar(ty: Any) -> str:
    name: str = ty.name
    return name.replace("uint", "u").replace("int", "i")


def _collect(value: Any, path: tuple[int, ...], constants: dict[tuple[int, ...], Any]) -> None:
    """What of an argument is known while compiling, by its place."""
    if isinstance(value, Constexpr):
        constants[path] = unwrap(value)
    elif isinstance(value, Tuple):
        for i, part in enumerate(value):
            _collect(part, (*path, i), constants)
