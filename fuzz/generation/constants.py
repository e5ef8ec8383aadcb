"""The numbers in the code under test: where it may change what it does.

Kernels switch paths at sizes that are written in their own source: in comparisons, in tables of tuned configurations,
in dictionaries from which a kernel is chosen. Whoever draws sizes at these numbers, and beside them, gets there.
"""

import ast
import operator
from collections.abc import Callable, Mapping

from indexfuzz.generation.aims import LIMITS

_SMALLEST, _LARGEST = 2, 4 * max(LIMITS.values())
"""Numbers outside are no sizes that a case could have, nor quotients that lead to one."""

MOST = 256
"""Constants that are kept; those of comparisons first, then the rest by size."""

_OPERATIONS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.LShift: operator.lshift,
    ast.Pow: operator.pow,
}
_MOST_BITS = 32
"""Right operands of shifts and powers beyond it make no size."""


def constants_in(texts: Mapping[str, str]) -> tuple[int, ...]:
    """The integers in some source texts by file, each once: first those that something is compared with.

    Expressions of constants count by their value, `64 * 1024` and `1 << 14` among them. A text that is no Python has
    none.
    """
    compared, others = set[int](), set[int]()
    for text in texts.values():
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        others |= _integers(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare):
                compared |= _integers(node)
    return (*sorted(compared), *sorted(others - compared))[:MOST]


def _integers(tree: ast.AST) -> set[int]:
    values = (abs(value) for node in ast.walk(tree) if (value := _evaluate(node)) is not None)
    return {value for value in values if _SMALLEST <= value <= _LARGEST}


def _evaluate(node: ast.AST) -> int | None:
    """The value of an expression of integer constants; None for any other, and for one of absurd size."""
    if isinstance(node, ast.Constant):
        return node.value if type(node.value) is int else None
    if not isinstance(node, ast.BinOp) or (operation := _OPERATIONS.get(type(node.op))) is None:
        return None
    left, right = _evaluate(node.left), _evaluate(node.right)
    if left is None or right is None or abs(left) > _LARGEST or abs(right) > _LARGEST:
        return None
    is_steep = isinstance(node.op, ast.LShift | ast.Pow)
    if (is_steep and not 0 <= right <= _MOST_BITS) or (isinstance(node.op, ast.FloorDiv) and not right):
        return None
    return operation(left, right)
