"""A user's own kernels: any importable module that defines `implementation`."""

import importlib
import sys
from pathlib import Path

from indexfuzz.core.project import Project
from indexfuzz.core.tracebacks import location_of
from indexfuzz.core.words import path_from_here
from indexfuzz.implementations.base import Implementation, ImplementationError
from indexfuzz.implementations.validation import kind_of, validate


def load(name: str) -> Implementation:
    """Import a module, from the current folder, the project's or the environment, and take its `implementation`.

    Raises ImplementationError when the module cannot be imported or has no Implementation that can be tested.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise ImplementationError(f"module:{name} is no name of a module{_meant(name)}")
    if name.endswith(".py"):
        raise ImplementationError(f"module:{name} is the name of a file{_meant(name)}")
    for folder in (str(Project.here().root), ""):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        told = _missing(name) if getattr(error, "name", None) == name.partition(".")[0] else _told(error)
        raise ImplementationError(f"module:{name} cannot be imported: {told}") from error
    implementation = getattr(module, "implementation", None)
    if not isinstance(implementation, Implementation):
        found = "has none" if implementation is None else f"has {kind_of(implementation)}"
        raise ImplementationError(
            f"module:{name} must define `implementation`, an instance of indexfuzz.Implementation; it {found}"
        )
    try:
        validate(implementation)
    except ImplementationError as error:
        raise ImplementationError(f"module:{name}: {error}") from None
    return implementation


def _meant(name: str) -> str:
    stem = Path(name).stem
    return f"; write module:{stem}" if name.endswith(".py") and stem.isidentifier() else ", such as module:my_kernels"


def _missing(name: str) -> str:
    top = name.partition(".")[0]
    return f"there is no {top}.py here, nor on Python's path; `indexfuzz new-impl {top}` writes one"


def _told(error: BaseException) -> str:
    """What was raised, and on which line of the user's files."""
    file, _, line = location_of(error).rpartition(":")
    where = f" ({path_from_here(Path(file))}:{line})" if file and "importlib" not in file else ""
    return f"{type(error).__name__}: {error}{where}"
