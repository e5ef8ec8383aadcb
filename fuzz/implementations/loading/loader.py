"""Execute a file of a third-party project without installing, importing or building that project.

The file runs as a module under a private name. Its imports, also those inside functions that run later, go through
its own `__import__`: names of the project itself, names that an adapter provides and packages that are not installed
are replaced, and Project.replaced lists them; everything else is the real thing. `sys.modules` and the import system
stay as they were, so an installed copy of the same project is neither used nor disturbed.
"""

import ast
import builtins
import hashlib
import importlib.util
import inspect
import linecache
import sys
from collections.abc import Mapping, Sequence
from types import FrameType, ModuleType
from typing import Any

from indexfuzz.implementations.loading.prune import guarded_import_lines, prune
from indexfuzz.implementations.loading.source import Project, SourceError
from indexfuzz.implementations.loading.stand_ins import Names, StandInError

_PRIVATE = "_indexfuzz_source"


class Loader:
    """Executes modules of one project, each at most once.

    `provide` maps dotted names to the objects that stand for them ("vllm.platforms.current_platform"). `execute` maps
    the dotted name of a module to the names wanted from it: only the top-level statements those need are executed, so
    unrelated code in the same file can neither fail nor import anything. An empty sequence executes the whole file.
    A name that is provided replaces the one of an executed module.
    """

    def __init__(
        self, project: Project, *, provide: Mapping[str, object], execute: Mapping[str, Sequence[str]]
    ) -> None:
        self._project = project
        self._execute = dict(execute)
        self._names = Names(provide, self._load_if_executed)
        self._roots = {project.package, *(name.partition(".")[0] for name in provide)}
        self._modules: dict[str, ModuleType] = {}
        self._guarded: dict[str, frozenset[int]] = {}

    @property
    def replaced(self) -> tuple[str, ...]:
        """Dotted names that got something else than the real thing; grows when functions import as they run."""
        return tuple(sorted(self._project.replaced))

    def load(self, module: str) -> ModuleType:
        """Return a module of the project, executed; `module` is a key of `execute`.

        Raises SourceError where the file is absent, cannot be executed, or lacks one of the names wanted from it.
        """
        if module not in self._modules:
            self._modules[module] = self._run(module)
        return self._modules[module]

    def _load_if_executed(self, name: str) -> ModuleType | None:
        return self.load(name) if name in self._execute else None

    def _run(self, name: str) -> ModuleType:
        file = f"{name.replace('.', '/')}.py"
        text = self._project.read(file)
        filename = _register_source(f"{self._project.package}-{self._project.version}/{file}", text)
        self._project.executed.add(filename)
        wanted = self._execute[name]
        try:
            tree = ast.parse(text, filename)
        except SyntaxError as error:
            raise SourceError(f"{file} of {self._project.label} is not valid Python here: {error}") from None
        missing, tree = prune(tree, wanted)
        if missing:
            raise SourceError(
                f"{file} of {self._project.label} has no {' and no '.join(missing)}; "
                f"versions {self._project.known_versions} are known to have it"
            )
        self._guarded[filename] = guarded_import_lines(tree)
        module = ModuleType(f"{_PRIVATE}.{name}")
        module.__file__ = filename
        module.__package__ = name.rpartition(".")[0]
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": self._import}
        self._names.loading += 1
        sys.modules[module.__name__] = module  # dataclasses look their module up while it is executed
        try:
            exec(compile(tree, filename, "exec", dont_inherit=True), vars(module))  # noqa: S102 - executing it is the point
        except SourceError:
            raise
        except Exception as error:
            raise SourceError(
                f"{file} of {self._project.label} cannot be executed: {type(error).__name__}: {error}"
            ) from error
        finally:
            self._names.loading -= 1
            del sys.modules[module.__name__]
        vars(module).update(self._names.provided_in(name))
        return module

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002 - the signature of __import__
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        absolute = importlib.util.resolve_name("." * level + name, (globals or {}).get("__package__"))
        root = absolute.partition(".")[0]
        if root not in self._roots:
            try:
                return builtins.__import__(name, globals, locals, fromlist or (), level)
            except (ImportError, OSError):  # OSError: a shared library that does not load
                if self._is_guarded(inspect.currentframe()):
                    raise
        self._note(absolute, fromlist or ())
        return self._names.resolve(absolute if fromlist else root)

    def _note(self, module: str, names: Sequence[str]) -> None:
        if module not in self._execute:
            dotted = {f"{module}.{name}" for name in names} or {module}
            self._project.replaced.update(dotted - self._execute.keys())

    def _is_guarded(self, frame: FrameType | None) -> bool:
        """Tell whether the import statement stands in a `try` that handles its failure itself."""
        caller = frame.f_back if frame is not None else None
        return caller is not None and caller.f_lineno in self._guarded.get(caller.f_code.co_filename, ())


def _register_source(filename: str, text: str) -> str:
    """Make the text available to inspect.getsource under a name; another text of that name gets a suffix."""
    lines = text.splitlines(keepends=True)
    known = linecache.cache.get(filename)
    if known is not None and known[-2:] != (lines, filename):
        filename = f"{filename}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    linecache.cache[filename] = (len(text), None, lines, filename)  # no modification time: never dropped as stale
    return filename


__all__ = ["Loader", "SourceError", "StandInError"]
