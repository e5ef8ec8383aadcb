"""Statements of a source file: the one on a line, the names that it reads, and the statement that a name came from."""

import ast
import linecache
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from indexfuzz.lockstep.source.lanes import name_of_called

Simple = ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Expr | ast.Return | ast.Assert
Header = ast.If | ast.While | ast.For

MOST_LINES = 6
"""Lines of a statement that are shown."""


@dataclass(frozen=True)
class Statement:
    """A statement inside a function, or of an `if` or a loop the line that decides."""

    file: str
    node: Simple | Header
    function: ast.FunctionDef

    @property
    def line(self) -> int:
        """Its first line."""
        return self.node.lineno

    @property
    def last_line(self) -> int:
        """Its last line, of a header the last one of what it decides by."""
        node = self.node
        part = node.test if isinstance(node, ast.If | ast.While) else node.iter if isinstance(node, ast.For) else node
        return part.end_lineno or node.lineno

    @property
    def text(self) -> str:
        """Its source, on one line; where it is long, its beginning and three dots."""
        lines = [line.strip() for line in linecache.getlines(self.file)[self.line - 1 : self.last_line]]
        return " ".join([*lines[:MOST_LINES], *(["..."] if len(lines) > MOST_LINES else [])])

    @property
    def expressions(self) -> list[ast.expr]:
        """What it reads."""
        node = self.node
        if isinstance(node, ast.If | ast.While | ast.Assert):
            return [node.test]
        if isinstance(node, ast.For):
            return [node.iter]
        value = [node.value] if node.value is not None else []
        return [node.target, *value] if isinstance(node, ast.AugAssign) else value

    @property
    def stored(self) -> set[str]:
        """The names of what it stores, where it is a store or an atomic."""
        call = self.node.value if isinstance(self.node, ast.Expr | ast.Assign) else None
        if not isinstance(call, ast.Call) or not name_of_called(call).startswith(("store", "atomic")):
            return set()
        values = [*call.args[1:2], *(each.value for each in call.keywords if each.arg in ("value", "val"))]
        return {node.id for value in values for node in ast.walk(value) if isinstance(node, ast.Name)}

    def part_given(self, name: str) -> int | None:
        """Which part of a tuple it gives a name, where it takes a tuple apart."""
        targets = self.node.targets if isinstance(self.node, ast.Assign) else []
        parts = [target.elts for target in targets if isinstance(target, ast.Tuple)]
        names = [[getattr(part, "id", "") for part in each] for each in parts]
        return next((each.index(name) for each in names if name in each), None)

    def returned(self, part: int | None) -> ast.expr | None:
        """What it returns, of a tuple one part; None where it is no return, or returns nothing."""
        value = self.node.value if isinstance(self.node, ast.Return) else None
        if part is not None and isinstance(value, ast.Tuple) and part < len(value.elts):
            return value.elts[part]
        return value


@lru_cache(maxsize=32)
def _tree(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except SyntaxError:
        return None


def statement_at(file: str, line: int) -> Statement | None:
    """The innermost statement inside a function that a line belongs to; None where the file does not say."""
    tree = _tree("".join(linecache.getlines(file)))
    best: Statement | None = None
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)] if tree else []
    for function in functions:
        if function.lineno <= line <= (function.end_lineno or function.lineno):
            for node in _statements(function):
                found = Statement(file, node, function)
                if found.line <= line <= found.last_line and (best is None or best.line <= found.line):
                    best = found
    return best


def definition_of(name: str, before: Statement, known: Mapping[str, object] | None = None) -> Statement | None:
    """The last statement above another one that gives a name its value, else the last of all; None of a parameter.

    `known` has values of names; a statement in a branch that they rule out is left out.
    """
    skipped = _skipped(before.function, known or {})
    given = [
        Statement(before.file, node, before.function)
        for node in _statements(before.function)
        if name in _targets(node) and node is not before.node and node not in skipped
    ]
    above = [statement for statement in given if statement.line < before.line]
    return max(above or given, key=lambda statement: statement.line, default=None)


def condition_of(statement: Statement) -> Statement | None:
    """The innermost `if` or `while` that decides whether a statement runs; None of one that always does."""
    deciding = [
        node
        for node in ast.walk(statement.function)
        if isinstance(node, ast.If | ast.While)
        and any(inner is statement.node for part in (*node.body, *node.orelse) for inner in ast.walk(part))
    ]
    node = max(deciding, key=lambda each: each.lineno, default=None)
    return Statement(statement.file, node, statement.function) if node is not None else None


def _skipped(function: ast.FunctionDef, known: Mapping[str, object]) -> set[ast.AST]:
    """What lies in the branches of a function that were not taken, as far as its conditions can be told."""
    found: set[ast.AST] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.If):
            names = {n.id for n in ast.walk(node.test) if isinstance(n, ast.Name)}
            if names <= known.keys() and not any(isinstance(n, ast.Call) for n in ast.walk(node.test)):
                code = compile(ast.Expression(node.test), "<condition>", "eval")
                try:
                    taken = bool(eval(code, {"__builtins__": {}}, dict(known)))  # noqa: S307 - the kernel's own
                except (TypeError, AttributeError, ZeroDivisionError):
                    continue
                for other in node.orelse if taken else node.body:
                    found |= set(ast.walk(other))
    return found


def _statements(function: ast.FunctionDef) -> Iterator[Simple | Header]:
    for node in ast.walk(function):
        if isinstance(node, Simple | Header):
            yield node


def _targets(node: Simple | Header) -> set[str]:
    """Names that a statement gives a value."""
    if isinstance(node, ast.Assign):
        targets: list[ast.expr] = node.targets
    elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For):
        targets = [node.target]
    else:
        return set()
    return {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
