"""The exceptions with which Triton ends a launch."""

from triton.compiler.errors import CompilationError, CompileTimeAssertionFailure
from triton.errors import TritonError

__all__ = ["CompilationError", "CompileTimeAssertionFailure", "TritonError"]
