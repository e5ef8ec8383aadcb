"""Which files the code of an implementation lies in: those of its functions, and of its own modules that they use."""

import ast
import functools
import linecache
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

from indexfuzz.implementations.base import Implementation

_INSTALLED = ("site-packages", "dist-packages")
_OURS = "indexfuzz"
_UNDER_TEST = ("indexfuzz.kernels", "indexfuzz_kernels_with_")
"""Of this package, what is itself under test: the built-in kernels and edited copies of them."""


def source_texts(implementation: Implementation) -> dict[str, str]:
    """The text of every file that an implementation's own code lies in, by name, in order of name.

    A file that cannot be read is left out.
    """
    roots = [*implementation.stages.values(), implementation.forward]
    modules = _own_modules([code for root in roots for code in _functions(root)])
    files = {*implementation.sources, *(file for module in modules if (file := _file_of(module)))}
    texts = {file: "".join(linecache.getlines(file)) for file in sorted(files)}
    return {file: text for file, text in texts.items() if text}


def _functions(value: Any, *, deep: int = 3) -> Iterator[FunctionType]:
    """The plain functions in a callable: behind wrappers, in closures, of Triton's jit functions."""
    if deep < 0 or value is None:
        return
    if isinstance(value, MethodType):
        yield from _functions(value.__func__, deep=deep)
    elif isinstance(value, functools.partial):
        yield from _functions(value.func, deep=deep)
    elif isinstance(value, FunctionType):
        yield value
        for cell in value.__closure__ or ():
            try:
                inside = cell.cell_contents
            except ValueError:  # not bound yet
                continue
            yield from _functions(inside, deep=deep - 1)
    for name in ("__wrapped__", "fn"):
        inner = getattr(value, name, None)
        if inner is not None and inner is not value:
            yield from _functions(inner, deep=deep - 1)


def _own_modules(functions: list[FunctionType]) -> list[ModuleType]:
    """The modules of some functions, and those of the same project that they use."""
    waiting = [module for function in functions if (module := sys.modules.get(function.__module__ or ""))]
    packages = {_package(module) for module in waiting}
    found: dict[str, ModuleType] = {}
    while waiting:
        module = waiting.pop()
        if module.__name__ in found or not _is_own(module, packages):
            continue
        found[module.__name__] = module
        for value in list(vars(module).values()):
            home = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(home, str) and (other := sys.modules.get(home)):
                waiting.append(other)
    return list(found.values())


def _file_of(module: ModuleType) -> str | None:
    """The file of a module, be it a real one or a name that linecache knows."""
    return getattr(module, "__file__", None) or getattr(module.__spec__, "origin", None)


def _package(module: ModuleType) -> str:
    return module.__name__.partition(".")[0]


def _is_own(module: ModuleType, packages: set[str]) -> bool:
    """Whether a module belongs to the project under test, be that a package or a folder of loose files."""
    name, file = module.__name__, _file_of(module)
    if _package(module).startswith(_OURS):
        return name.startswith(_UNDER_TEST)
    if file is None or _package(module) in sys.stdlib_module_names:
        return False
    return _package(module) in packages or not any(part in _INSTALLED for part in Path(file).parts)


def whiles_in(text: str | bytes) -> list[tuple[int, int]]:
    """First and last line of every `while`. Raises SyntaxError or ValueError where the text is no Python."""
    loops = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.While))
    return [(loop.lineno, loop.end_lineno or loop.lineno) for loop in loops]


def whiles_of(texts: Mapping[str, str]) -> dict[str, list[tuple[int, int]]]:
    """The same by file; a text that is no Python is left out."""
    found = {}
    for file, text in texts.items():
        with suppress(SyntaxError, ValueError):
            found[file] = whiles_in(text)
    return found
