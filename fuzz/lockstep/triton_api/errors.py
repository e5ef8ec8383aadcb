"""The exceptions with which Triton ends a launch."""

from triton.compiler.errors import CompilationError, CompileTimeAssertionFailure, UnsupportedLanguageConstruct
from triton.errors import TritonError
from triton.runtime.errors import OutOfResources, PTXASError

__all__ = [
    "CompilationError",
    "CompileTimeAssertionFailure",
    "OutOfResources",
    "PTXASError",
    "TritonError",
    "UnsupportedLanguageConstruct",
]
