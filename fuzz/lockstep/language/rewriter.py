"""What rewriting a jit function starts from: the names that it sees, and calls of helpers in place of its nodes."""

import ast
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any, Final, TypeVar

from indexfuzz.lockstep.tracking.ends import Place
from indexfuzz.lockstep.tracking.violations import UnsupportedFeature
from indexfuzz.lockstep.triton_api.types import Constexpr

Located = TypeVar("Located", bound=ast.expr | ast.stmt | ast.arg | ast.keyword)

LOAD: Final = ast.Load()
STORE: Final = ast.Store()

_FIELDLESS: Final = (ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)


def walk(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree but for those without fields, in any order; ast.walk takes several times as long."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for child in vars(node).values():
            if type(child) is list:
                waiting += [c for c in child if isinstance(c, ast.AST)]
            elif isinstance(child, ast.AST) and not isinstance(child, _FIELDLESS):
                waiting.append(child)


def locate(made: Located, at: Any) -> Located:
    """Give a node the place of another one."""
    made.lineno, made.col_offset = at.lineno, at.col_offset
    made.end_lineno, made.end_col_offset = at.end_lineno, at.end_col_offset
    return made


def hide(node: Located) -> Located:
    """Give a node a place that nobody sees: what it does cannot fail, and calls nothing."""
    node.lineno = node.end_lineno = 1
    node.col_offset = node.end_col_offset = 0
    return node


@cache
def word(value: str | int | None) -> ast.expr:
    """A constant for a helper, one node for all trees."""
    return hide(ast.Constant(value))


@cache
def _name_of(helper: str) -> ast.expr:
    return hide(ast.Name(helper, LOAD))


class Rewriter:
    """The jit function at hand; constants collects what the result refers to by name.

    Conditions of a function of Triton's own library, `is_library`, have no places: nobody asks how they end.
    """

    def __init__(self, file: str, name: str, scope: dict[str, Any], *, is_library: bool = False) -> None:
        self.file = file
        self.name = name
        self.scope = scope
        self.constants: dict[str, Any] = {}
        self.locals: set[str] = set()
        self.awaiting: set[str] = set()
        self.is_library = is_library

    def lambda_(self, parameters: list[ast.arg], body: ast.expr) -> ast.expr:
        """A function of some names."""
        arguments = ast.arguments(posonlyargs=[], args=parameters, kwonlyargs=[], kw_defaults=[], defaults=[])
        return hide(ast.Lambda(arguments, body))

    def helper(self, name: str, at: ast.AST, *args: ast.expr) -> ast.expr:
        """A call of a helper, at the place of `at`."""
        return locate(ast.Call(_name_of(name), list(args), []), at)

    def constant(self, value: Any, *, raw: bool = False) -> ast.expr:
        """A name for an object, made a constexpr unless raw."""
        name = f"_ls_c{len(self.constants)}"
        self.constants[name] = value if raw else Constexpr(value)
        return hide(ast.Name(name, LOAD))

    def place(self, node: ast.AST, text: str) -> ast.expr:
        """The place of a condition, by which its ends are told apart from those of others; None in the library."""
        if self.is_library:
            return word(None)
        return self.constant(Place(self.file, getattr(node, "lineno", 0), text), raw=True)

    def is_module(self, node: ast.expr) -> bool:
        """Whether an expression names a module."""
        try:
            return isinstance(self.static(node), ModuleType)
        except (LookupError, AttributeError):
            return False

    def static(self, node: ast.expr) -> Any:
        """What an expression over free names means; LookupError where it has a local one."""
        if isinstance(node, ast.Name):
            if node.id in self.locals:
                raise LookupError(node.id)
            return self.scope[node.id]
        if isinstance(node, ast.Attribute):
            return getattr(self.static(node.value), node.attr)
        raise LookupError

    def is_constexpr_annotation(self, node: ast.expr) -> bool:
        """Whether an annotation says tl.constexpr."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return "constexpr" in node.value
        try:
            return self.static(node) is Constexpr
        except (LookupError, AttributeError):
            return False

    def unsupported(self, node: ast.AST, what: str) -> UnsupportedFeature:
        """The error for syntax that has no translation."""
        line = getattr(node, "lineno", 0)
        return UnsupportedFeature(f"{self.file}:{line}: {what} in {self.name} is not supported by lockstep")
