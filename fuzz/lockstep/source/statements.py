"""Statements of a source file: the one on a line, the names that it reads, and the statement that a name came from."""

import ast
import linecache
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType

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


@lru_cache(maxsize=32)
def _functions(tree: ast.Module) -> tuple[ast.FunctionDef, ...]:
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def statement_at(file: str, line: int) -> Statement | None:
    """The innermost statement inside a function that a line belongs to; None where the file does not say."""
    tree = _tree("".join(linecache.getlines(file)))
    best: Statement | None = None
    for function in _functions(tree) if tree else ():
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
    giving = [node for node, targets in _statements(before.function).items() if name in targets]
    if not giving:
        return None
    skipped = _skipped(before.function, known or {})
    given = [
        Statement(before.file, node, before.function)
        for node in giving
        if node is not before.node and node not in skipped
    ]
    above = [statement for statement in given if statement.line < before.line]
    return max(above or given, key=lambda statement: statement.line, default=None)


def condition_of(statement: Statement) -> Statement | None:
    """The innermost `if` or `while` that decides whether a statement runs; None of one that always does."""
    node = _deciding(statement.function).get(statement.node)
    return Statement(statement.file, node, statement.function) if node is not None else None


@lru_cache(maxsize=256)
def _deciding(function: ast.FunctionDef) -> dict[ast.AST, ast.If | ast.While]:
    """The innermost `if` or `while` around each node of a function that has one."""
    found: dict[ast.AST, ast.If | ast.While] = {}
    for node in sorted(_conditions(function), key=lambda each: each.lineno):
        found |= dict.fromkeys(_inside(*node.body, *node.orelse), node)
    return found


@lru_cache(maxsize=256)
def _conditions(function: ast.FunctionDef) -> tuple[ast.If | ast.While, ...]:
    return tuple(node for node in _statements(function) if isinstance(node, ast.If | ast.While))


@lru_cache(maxsize=1024)
def _decidable(node: ast.If) -> tuple[frozenset[str], CodeType] | None:
    """The names that a condition reads, and the condition as code; None of one that calls something."""
    inside = _inside(node.test)
    if any(isinstance(part, ast.Call) for part in inside):
        return None
    names = frozenset(part.id for part in inside if isinstance(part, ast.Name))
    return names, compile(ast.Expression(node.test), "<condition>", "eval")


def _skipped(function: ast.FunctionDef, known: Mapping[str, object]) -> set[ast.AST]:
    """What lies in the branches of a function that were not taken, as far as its conditions can be told."""
    found: set[ast.AST] = set()
    for node in _conditions(function):
        told = _decidable(node) if isinstance(node, ast.If) else None
        if isinstance(node, ast.If) and told is not None and told[0] <= known.keys():
            try:
                taken = bool(eval(told[1], {"__builtins__": {}}, dict(known)))  # noqa: S307 - the kernel's own
            except (TypeError, AttributeError, ZeroDivisionError):
                continue
            found.update(_inside(*(node.orelse if taken else node.body)))
    return found


def _inside(*nodes: ast.AST) -> list[ast.AST]:
    """The nodes and all that they are made of."""
    return [inner for node in nodes for inner in ast.walk(node)]


@lru_cache(maxsize=256)
def _statements(function: ast.FunctionDef) -> dict[Simple | Header, frozenset[str]]:
    """The statements of a function, and the names that each gives a value."""
    return {node: frozenset(_targets(node)) for node in ast.walk(function) if isinstance(node, Simple | Header)}


def _targets(node: Simple | Header) -> set[str]:
    """Names that a statement gives a value."""
    if isinstance(node, ast.Assign):
        targets: list[ast.expr] = node.targets
    elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For):
        targets = [node.target]
    else:
        return set()
    return {part.id for part in _inside(*targets) if isinstance(part, ast.Name)}
