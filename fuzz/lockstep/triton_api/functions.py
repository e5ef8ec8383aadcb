"""Jit functions as Triton keeps them: their source, the names they see, what is part of the language."""

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import Parameter, Signature
from types import MappingProxyType, ModuleType
from typing import Any, Final, cast

from triton import knobs
from triton.compiler.code_generator import CodeGenerator
from triton.language import core
from triton.runtime.jit import ConstexprFunction, JITCallable, JITFunction

from indexfuzz.lockstep.triton_api.types import Constexpr, Dtype

is_builtin: Final[Callable[[Any], bool]] = core.is_builtin

RETURNS_CONSTEXPR: Final = hasattr(CodeGenerator, "decide_return_type")
"""Newer releases keep a constexpr that a function returns; older ones make a tensor of it."""

BUILTIN_NAMES: Final[MappingProxyType[str, Any]] = MappingProxyType(CodeGenerator.builtin_namespace)


def parse_function(function: Any) -> tuple[ast.FunctionDef, str]:
    """A jit function's syntax tree, with the line numbers of its file, and that file."""
    file, line = place_of(function)
    tree = ast.parse("\n" * (line - 1) + function.src)
    return cast("ast.FunctionDef", tree.body[0]), file


def visible_scope(function: Any) -> dict[str, Any]:
    """What the free names of a jit function mean."""
    found: dict[str, Any] = function.get_capture_scope()
    return found


def location_of(function: Any) -> str:
    """file:line of a jit function's definition."""
    file, line = place_of(function)
    return f"{file}:{line}"


def place_of(function: Any) -> tuple[str, int]:
    """File and line of a jit function's definition, where its `src` begins."""
    raw: list[str] = function.raw_src
    skipped = next(i for i, line in enumerate(raw) if re.match(r"\s*def\s", line))
    return function.fn.__code__.co_filename, function.starting_line_number + skipped


def look_up(function: Any, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """What some free names mean now; one that means nothing any more is left out."""
    inner = function.fn
    cells = dict(zip(inner.__code__.co_freevars, inner.__closure__ or (), strict=True))
    for name in names:
        if name in cells:
            yield name, cells[name].cell_contents
        elif name in inner.__globals__:
            yield name, inner.__globals__[name]


def bind_plainly(
    names: Sequence[str], defaults: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[Any] | None:
    """The arguments of parameters that may be given either way, in order; None where they do not fit them."""
    count = len(args)
    if count + len(kwargs) > len(names):
        return None
    bound, named = list(args), 0
    for name in names[count:]:
        if name in kwargs:
            bound.append(kwargs[name])
            named += 1
        elif name in defaults:
            bound.append(defaults[name])
        else:
            return None
    return bound if named == len(kwargs) else None


def is_plain(signature: Signature) -> bool:
    """Whether every parameter may be given by position or by name."""
    return all(p.kind is Parameter.POSITIONAL_OR_KEYWORD for p in signature.parameters.values())


def defaults_of(signature: Signature) -> dict[str, Any]:
    """The defaults of a signature's parameters by name."""
    return {p.name: p.default for p in signature.parameters.values() if p.default is not Parameter.empty}


def is_visible(name: str, value: Any) -> bool:
    """Whether a kernel may read this global: Triton's own rule."""
    return (
        name in BUILTIN_NAMES
        or value is None
        or isinstance(value, ModuleType | JITCallable | Constexpr | Dtype)
        or getattr(value, "__triton_builtin__", False)
        or getattr(value, "__triton_aggregate__", False)
        or str(getattr(value, "__module__", "")).startswith("triton.language")
        or (isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields"))
        or bool(knobs.compilation.allow_non_constexpr_globals)
    )


def is_jit(value: Any) -> bool:
    """Whether a value is a function under @triton.jit."""
    return isinstance(value, JITFunction)


def is_constexpr_function(value: Any) -> bool:
    """Whether a value is a function under @triton.constexpr_function."""
    return isinstance(value, ConstexprFunction)


def is_language_source(module: str) -> bool:
    """Whether a function of this module belongs to Triton's library instead of a kernel's author."""
    return module == "triton.language" or module.startswith("triton.language.")
