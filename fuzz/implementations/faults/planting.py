"""Import the built-in kernels a second time, with edits in their source."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import linecache
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ORIGINAL = "indexfuzz.kernels"

_made: dict[str, object] = {}
"""The modules and packages that have been made, and of what."""


class FaultError(Exception):
    """A fault that does not exist, is malformed, or no longer fits the kernels. One sentence."""


def edited_kernels(label: str, edits: Iterable[tuple[str, str, str, str]]) -> str:
    """Import a copy of the kernels with edits (fault, file, old, new) applied; the name of its package.

    `label` names it in source locations.

    Raises FaultError unless each `old` occurs exactly once in its file, and where the label names other edits already.
    """
    package, edits = f"indexfuzz_kernels_with_{label.replace('-', '_').replace('+', '_and_')}", tuple(edits)
    _name(package, edits)
    if package not in sys.modules:
        sources = original_sources()
        for fault, file, old, new in edits:
            sources[file] = _replace(fault, file, sources.get(file, ""), old, new)
        copies = {}
        for file, text in sources.items():
            shown = file.replace("kernels", f"kernels+{label}", 1)
            copies[_module_name(file, package)] = (text.replace(ORIGINAL, package), shown)
        sys.meta_path.append(_CopyFinder(copies))
        importlib.import_module(package)
    return package


def import_source(name: str, source: str, shown: str) -> ModuleType:
    """Import a module of a name from its source; `shown` is the path that source locations give.

    Raises FaultError where the name is that of another source already.
    """
    _name(name, source)
    if name not in sys.modules:
        sys.meta_path.append(_CopyFinder({name: (source, shown)}))
    return importlib.import_module(name)


def original_sources() -> dict[str, str]:
    """Text of every file of the kernels package, by the path that faults use: kernels/cache.py."""
    spec = importlib.util.find_spec(ORIGINAL)
    if spec is None or spec.origin is None:
        raise FaultError("faults are planted in the built-in kernels, and this installation has none")
    return {f"kernels/{file.name}": file.read_text(encoding="utf-8") for file in Path(spec.origin).parent.glob("*.py")}


def _name(name: str, made_of: object) -> None:
    if _made.setdefault(name, made_of) != made_of:
        raise FaultError(f"{name} was made of something else already; give this another name")


def _module_name(file: str, package: str) -> str:
    stem = Path(file).stem
    return package if stem == "__init__" else f"{package}.{stem}"


def _replace(fault: str, file: str, source: str, old: str, new: str) -> str:
    count = source.count(old)
    if count != 1:
        raise FaultError(f"fault {fault}: {file} must have this text once, but has it {count} times: {old.strip()}")
    return source.replace(old, new)


@dataclass(frozen=True)
class _CopyFinder(importlib.abc.MetaPathFinder):
    """Finds the modules of one copy: name -> (source, path to show)."""

    copies: dict[str, tuple[str, str]]

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a copied module, None for all others."""
        if fullname not in self.copies:
            return None
        source, shown = self.copies[fullname]
        is_package = shown.endswith("__init__.py")
        loader = _CopyLoader(source, shown)
        return importlib.util.spec_from_loader(fullname, loader, origin=shown, is_package=is_package)


@dataclass(frozen=True)
class _CopyLoader(importlib.abc.Loader):
    """Executes edited source under a path that no file has; linecache gets the text, because Triton reads it there."""

    source: str
    shown: str

    def exec_module(self, module: ModuleType) -> None:
        """Run the source in the module."""
        lines = self.source.splitlines(keepends=True)
        linecache.cache[self.shown] = (len(self.source), None, lines, self.shown)
        exec(compile(self.source, self.shown, "exec"), module.__dict__)  # noqa: S102 - our own kernels

    def get_source(self, fullname: str) -> str:  # noqa: ARG002
        """The edited source, for linecache where somebody has emptied it."""
        return self.source
