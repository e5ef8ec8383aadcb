"""Which lane of each name a lane of an expression is made from.

`a[:, None]` at lane (i, j) is `a` at (i,); an operator or a function that works lane by lane takes the same lane of its
operands, and lane 0 along what is broadcast. Where a function mixes lanes, what it takes has no lane: all of it counts.
"""

import ast
from collections.abc import Iterator

Lane = tuple[int, ...]

MIXING = frozenset(
    {
        *(
            "sum",
            "max",
            "min",
            "argmax",
            "argmin",
            "reduce",
            "associative_scan",
            "cumsum",
            "cumprod",
            "sort",
            "xor_sum",
        ),
        *("dot", "dot_scaled", "trans", "permute", "reshape", "view", "ravel", "flip", "gather", "histogram", "topk"),
        *("join", "split", "cat", "interleave", "expand_dims", "arange", "make_block_ptr", "advance"),
    }
)
"""Functions of the language of which a lane is not made from that lane of what they take."""


def lanes_of_names(expression: ast.expr, lane: Lane | None) -> Iterator[tuple[str, Lane | None]]:
    """The names of an expression, in the order of the source, and the lane of each; None stands for all lanes."""
    for part, at in _lanes_of_parts(expression, lane):
        if isinstance(part, ast.Name):
            yield part.id, at


def lanes_of_calls(expression: ast.expr, lane: Lane | None) -> Iterator[tuple[str, Lane | None]]:
    """The functions that an expression calls, by their last name, and the lane of what each gives back."""
    for part, at in _lanes_of_parts(expression, lane):
        if isinstance(part, ast.Call):
            yield name_of_called(part), at


def name_of_called(call: ast.Call) -> str:
    """The last name of a function that is called; empty where it has none."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _lanes_of_parts(expression: ast.expr, lane: Lane | None) -> Iterator[tuple[ast.Name | ast.Call, Lane | None]]:
    """The names and the calls in an expression, each with its lane."""
    if isinstance(expression, ast.Name):
        yield expression, lane
    elif isinstance(expression, ast.Subscript):
        yield from _lanes_of_parts(expression.value, _before_subscript(expression.slice, lane))
    elif isinstance(expression, ast.Call):
        yield expression, lane
        inner = None if name_of_called(expression) in MIXING else lane
        if isinstance(expression.func, ast.Attribute):
            yield from _lanes_of_parts(expression.func.value, inner)
        for argument in [*expression.args, *(keyword.value for keyword in expression.keywords)]:
            yield from _lanes_of_parts(argument, inner)
    else:
        for child in ast.iter_child_nodes(expression):
            if isinstance(child, ast.expr):
                yield from _lanes_of_parts(child, lane)


def _before_subscript(index: ast.expr, lane: Lane | None) -> Lane | None:
    """The lane of `a` for a lane of `a[index]`, where the index only adds axes."""
    parts = index.elts if isinstance(index, ast.Tuple) else [index]
    if lane is None or len(parts) != len(lane):
        return None
    kept = []
    for part, at in zip(parts, lane, strict=True):
        if isinstance(part, ast.Slice) and part.lower is part.upper is part.step is None:
            kept.append(at)
        elif not (isinstance(part, ast.Constant) and part.value is None):
            return None
    return tuple(kept)
