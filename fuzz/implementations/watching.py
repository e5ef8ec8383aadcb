"""Watch the comparisons that the Python code of an implementation makes: its launchers and those who call them.

The functions get other code, compiled from the same text: each comparison tells its operands, each other condition how
it ended, and the result is the same. Code that something else compiles, Triton's kernels and what is given to
torch.compile, stays as it is.
"""

import ast
import gc
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

from indexfuzz.core.comparison import OPERATORS, Comparison, Computed

MOST = 8
"""Comparisons of different operands that one case keeps of one place."""

_SEE, _HOLD, _PICK = "__indexfuzz_see__", "__indexfuzz_hold__", "__indexfuzz_pick__"
_MAKE = "__indexfuzz_make__"
_NAMES = tuple(OPERATORS)

_PLAIN = frozenset({type(None), bool, int, str, list, tuple, dict})
"""Types whose truth costs nothing. That of others is looked at only where it is that of any object."""

Operand = int | str | None

Place = tuple[str, int, str, bool | None]
"""File, line and text of a condition, and the end that settles what it is joined in."""

_places: list[Place] = []
_watched: dict[str, "_Telling"] = {}
"""How the functions of a file tell what they compare, by file."""

_last: list[Mapping[str, str]] = []
"""What `watch` was last given."""


@dataclass(frozen=True)
class _Telling:
    """The text of a file, and which functions that it names only check something: what they are given is not told."""

    text: str
    checks: frozenset[str]


class EndlessError(BaseException):
    """More conditions came up than were allowed: a loop waits for what never comes. No `except Exception` keeps it."""


@dataclass
class _Watch:
    """What was compared, by place, since a `watching` that is not over began, and how many conditions may still be."""

    left: float
    ends: dict[int, set[tuple[bool, Operand, Operand]]] = field(default_factory=dict)

    def count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise EndlessError

    def keep(self, place: int, end: tuple[bool, Operand, Operand]) -> None:
        ends = self.ends.setdefault(place, set())
        if len(ends) < MOST:
            ends.add(end)


_watches: list[_Watch] = []
"""The innermost last, which alone takes note."""


def watch(texts: Mapping[str, str]) -> None:
    """Let all functions that come from these files tell what they compare; texts by file name.

    A function that was not made from that text, or a file that is no Python, stays as it is. What is told depends on
    these texts alone, whatever was watched before.
    """
    if _last[-1:] == [texts]:
        return
    _last[:] = [dict(texts)]
    checks = frozenset(name for file, text in texts.items() for name in _checks(file, text))
    wanted = {file: _Telling(text, checks & _words(text)) for file, text in texts.items()}
    new = {file: telling for file, telling in wanted.items() if _watched.get(file) != telling}
    if not new:
        return
    trees = {file: tree for file in new if (tree := _parse(file, texts[file])) is not None}
    codes = {file: _telling_codes(file, tree, new[file].checks) for file, tree in trees.items()}
    for function in _functions():
        known = codes.get(function.__code__.co_filename, {})
        code = known.get((function.__code__.co_qualname, function.__code__.co_firstlineno))
        if code and code.co_freevars == function.__code__.co_freevars:
            function.__globals__.update({_SEE: _see, _HOLD: _hold, _PICK: _pick, _MAKE: _make})
            function.__code__ = code
    _watched.update(new)


def _functions() -> list[FunctionType]:
    """All functions there are, those included that a process froze before it forked, which stay frozen."""
    is_frozen = gc.get_freeze_count() > 0
    gc.unfreeze()
    found = [value for value in gc.get_objects() if type(value) is FunctionType]
    if is_frozen:
        gc.freeze()
    return found


@contextmanager
def watching(most: float = math.inf) -> Iterator[list[Comparison]]:
    """What watched functions compare in here, in order of file and place; filled at the end.

    Where more than `most` conditions come up, the next one raises EndlessError.
    """
    found: list[Comparison] = []
    watch = _Watch(most)
    _watches.append(watch)
    try:
        yield found
    finally:
        _watches.remove(watch)
        for place, ends in sorted(watch.ends.items(), key=lambda item: (_places[item[0]][0], item[0])):
            file, line, text, settles = _places[place]
            for holds, left, right in sorted(ends, key=str):
                found.append(Comparison(file, line, text, holds, left, right, settles))


def _see(place: int, kind: int, left: Any, right: Any) -> Any:
    result = OPERATORS[_NAMES[kind]](left, right)
    if _watches:
        watch = _watches[-1]
        watch.count()
        if type(result) is bool:
            numbers = (left, right) if _kind(left) is _kind(right) in (int, str) else (None, None)
            watch.keep(place, (result, *numbers))
    return result


def _kind(operand: Any) -> type:
    return int if type(operand) is Computed else type(operand)


def _make(is_product: bool, left: Any, right: Any) -> Any:  # noqa: FBT001
    """A product or a remainder that is compared, which tells what it was made of."""
    result = left * right if is_product else left % right
    return Computed.of(result, (left, right)) if type(left) is type(right) is type(result) is int else result


def _pick(place: int, function: Any, left: Any, right: Any) -> Any:
    if _watches and function in (min, max) and type(left) is type(right) is int:
        _watches[-1].keep(place, (left < right, left, right))
    return function(left, right)


def _hold(place: int, value: Any) -> Any:
    if _watches:
        watch, kind = _watches[-1], type(value)
        watch.count()
        if kind in _PLAIN or not (hasattr(kind, "__bool__") or hasattr(kind, "__len__")):
            watch.keep(place, (bool(value), None, None))
    return value


def _telling(operand: ast.expr) -> ast.expr:
    """An operand that tells what it is made of, where it is a remainder or a product."""
    if not isinstance(operand, ast.BinOp) or not isinstance(operand.op, ast.Mod | ast.Mult):
        return operand
    arguments = [ast.Constant(isinstance(operand.op, ast.Mult)), operand.left, operand.right]
    return ast.copy_location(ast.Call(ast.Name(_MAKE, ast.Load()), arguments, []), operand)


def _parse(file: str, text: str) -> ast.Module | None:
    try:
        return ast.parse(text, file)
    except SyntaxError:
        return None


@lru_cache(maxsize=1 << 10)
def _checks(file: str, text: str) -> frozenset[str]:
    """Functions that do nothing but raise where something does not hold."""
    tree = _parse(file, text)
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)] if tree is not None else []
    bodies = {node.name: node.body[ast.get_docstring(node) is not None :] for node in found}
    return frozenset(name for name, body in bodies.items() if len(body) == 1 and _only_raises(body[0]))


@lru_cache(maxsize=1 << 10)
def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text))


def _only_raises(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and not node.orelse and isinstance(node.body[0], ast.Raise)


def _telling_codes(file: str, tree: ast.Module, checks: frozenset[str]) -> dict[tuple[str, int], CodeType]:
    """The code of every function of a text that tells what it compares, by qualified name and first line."""
    told = ast.fix_missing_locations(_Teller(file, _compiled_names(tree), checks).visit(tree))
    found: dict[tuple[str, int], CodeType] = {}
    waiting = [compile(told, file, "exec", dont_inherit=True)]
    while waiting:
        code = waiting.pop()
        found[code.co_qualname, code.co_firstlineno] = code
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return found


def _compiled_names(tree: ast.AST) -> frozenset[str]:
    """Names of functions that something else compiles: those in the arguments of a `compile`, and what they call."""
    calls = {
        node.name: {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "compile":
            found |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    while more := {name for known in found for name in calls.get(known, ())} - found:
        found |= more
    return frozenset(found)


class _Teller(ast.NodeTransformer):
    """Lets conditions tell how they end."""

    def __init__(self, file: str, compiled: frozenset[str], checks: frozenset[str]) -> None:
        self._file = file
        self._compiled = compiled
        self._checks = checks
        self._settling: dict[ast.expr, bool | None] = {}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Leave out functions that something else compiles, and those that run only once."""
        decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
        is_left = any(word in text for text in decorators for word in ("jit", "compile", "cache"))
        return node if is_left or node.name in self._compiled else self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        """Note which end of each part settles the whole: of `and` that it does not hold, of `or` that it does."""
        settling = isinstance(node.op, ast.Or)
        self._settling |= dict.fromkeys(node.values[:-1], settling)
        if self._settling.get(node) is settling:
            self._settling[node.values[-1]] = settling
        return self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """Comparisons of two operands, and chains whose middle is a name or a constant."""
        settles = self._settling.get(node)
        operands = [node.left, *node.comparators]
        texts = [
            ast.unparse(ast.Compare(a, [op], [b]))
            for a, op, b in zip(operands, node.ops, node.comparators, strict=False)
        ]
        self.generic_visit(node)
        operands = [_telling(operand) for operand in (node.left, *node.comparators)]
        plain = all(isinstance(middle, ast.Name | ast.Constant) for middle in operands[1:-1])
        if not plain or not all(type(op) in OPERATORS for op in node.ops):
            return node
        ends = (*(False,) * (len(texts) - 1), settles)
        parts = [
            self._call(node, _SEE, (text, end), ast.Constant(_NAMES.index(type(op))), left, right)
            for text, end, op, left, right in zip(texts, ends, node.ops, operands, node.comparators, strict=False)
        ]
        return parts[0] if len(parts) == 1 else ast.copy_location(ast.BoolOp(ast.And(), parts), node)

    def _visit_test(self, node: Any) -> ast.AST:
        """A condition that compares nothing."""
        has_comparison = any(isinstance(part, ast.Compare) for part in ast.walk(node.test))
        text = ast.unparse(node.test)
        self.generic_visit(node)
        if not has_comparison:
            node.test = self._call(node.test, _HOLD, (text, None), node.test)
        return node  # type: ignore[no-any-return]

    visit_IfExp = visit_While = _visit_test  # noqa: N815

    def visit_If(self, node: ast.If) -> ast.AST:
        """Leave out what ends in an error."""
        return node if _only_raises(node) else self._visit_test(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """Leave it out."""
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """The smaller or larger of two, which are compared; leave out what is given to a function that only checks."""
        name = ast.unparse(node.func).rpartition(".")[2]
        if name in self._checks:
            return node
        text = " < ".join(map(ast.unparse, node.args))
        self.generic_visit(node)
        is_choice = isinstance(node.func, ast.Name) and name in ("min", "max") and not node.keywords
        if not is_choice or len(node.args) != 2 or any(isinstance(operand, ast.Starred) for operand in node.args):
            return node
        return self._call(node, _PICK, (text, None), node.func, *node.args)

    def _call(self, at: ast.expr, name: str, about: tuple[str, bool | None], *arguments: ast.expr) -> ast.expr:
        _places.append((self._file, at.lineno, *about))
        call = ast.Call(ast.Name(name, ast.Load()), [ast.Constant(len(_places) - 1), *arguments], [])
        return ast.copy_location(call, at)
