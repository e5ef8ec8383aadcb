"""Keep only the top-level statements of a file that some of its names need."""

import ast
from collections.abc import Iterable, Iterator, Sequence

_FAILURES = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}


def prune(tree: ast.Module, wanted: Sequence[str]) -> tuple[list[str], ast.Module]:
    """Return the wanted names that the file never binds, and the file reduced to what the others need.

    A statement stays when it binds a needed name; what it loads is then needed too. Without wanted names the whole
    file stays.
    """
    if not wanted:
        return [], tree
    bound = [frozenset(_bound(statement)) for statement in tree.body]
    missing = [name for name in wanted if not any(name in names for names in bound)]
    needed = set(wanted)
    kept: set[int] = set()
    while True:
        new = {i for i, names in enumerate(bound) if i not in kept and names & needed}
        if not new:
            break
        kept |= new
        needed |= {name for i in new for name in _loaded(tree.body[i])}
    future = {i for i, statement in enumerate(tree.body) if _is_future(statement)}
    return missing, ast.Module([tree.body[i] for i in sorted(kept | future)], tree.type_ignores)


def guarded_import_lines(tree: ast.Module) -> frozenset[int]:
    """Return the lines of imports inside a `try` whose handlers catch a failed import."""
    return frozenset(
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Try) and any(_catches(handler) for handler in node.handlers)
        for statement in node.body
        for inner in ast.walk(statement)
        if isinstance(inner, (ast.Import, ast.ImportFrom))
        for line in range(inner.lineno, (inner.end_lineno or inner.lineno) + 1)
    )


def _catches(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or not _FAILURES.isdisjoint(_loaded(handler.type))


def _is_future(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


def _loaded(node: ast.AST) -> Iterator[str]:
    return (inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load))


def _bound(node: ast.AST) -> Iterator[str]:
    """Names a statement binds in its own scope; function and class bodies bind in theirs."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Store):
            yield node.id
    elif not isinstance(node, ast.Lambda):
        yield from _all_bound(ast.iter_child_nodes(node))


def _all_bound(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        yield from _bound(node)
