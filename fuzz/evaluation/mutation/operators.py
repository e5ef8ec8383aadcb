"""Mutation operators: ways in which a line of a kernel goes wrong, one trick each.

An operator takes a node of the syntax tree and its scope and yields replacements: the node whose text goes, and the
text that comes. Whether the result is a bug, or even runs, is not its concern.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Replacement = tuple[ast.AST, str]


@dataclass
class Scope:
    """What an operator may know about the function that a node is in."""

    strides: tuple[str, ...] = ()
    """Parameters that are strides, in order."""
    assigned: set[str] = field(default_factory=set)
    """Names that have a value before the node's statement: parameters and earlier assignments."""


Operator = Callable[[ast.AST, Scope], Iterator[Replacement]]


def _name(node: ast.AST) -> str:
    """Dotted name of a call's function: tl.maximum."""
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def mask(node: ast.AST, _scope: Scope) -> Iterator[Replacement]:
    """The mask of a load or a store lets everything through, or nothing."""
    if _name(node) in ("tl.load", "tl.store") and isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg == "mask":
                yield keyword.value, f"({ast.unparse(keyword.value)}) | True"
                yield keyword.value, f"({ast.unparse(keyword.value)}) & False"


def condition(node: ast.AST, _scope: Scope) -> Iterator[Replacement]:
    """One half of a conjunction is missing, or either half is enough."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd):
        left, right = ast.unparse(node.left), ast.unparse(node.right)
        yield node, f"({left})"
        yield node, f"({right})"
        yield node, f"(({left}) | ({right}))"


COMPARISONS: dict[type[ast.cmpop], tuple[str, ...]] = {
    ast.Lt: ("<=", ">="),
    ast.LtE: ("<", ">"),
    ast.Gt: (">=", "<="),
    ast.GtE: (">", "<"),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
}


def comparison(node: ast.AST, _scope: Scope) -> Iterator[Replacement]:
    """A comparison is off by one, or the other way round."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for other in COMPARISONS.get(type(node.ops[0]), ()):
            yield node, f"({ast.unparse(node.left)} {other} {ast.unparse(node.comparators[0])})"


def division(node: ast.AST, _scope: Scope) -> Iterator[Replacement]:
    """// for %, and the other way round."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.FloorDiv | ast.Mod):
        other = "%" if isinstance(node.op, ast.FloorDiv) else "//"
        yield node, f"({ast.unparse(node.left)} {other} {ast.unparse(node.right)})"


def addition(node: ast.AST, _scope: Scope) -> Iterator[Replacement]:
    """+ for -, and the other way round."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        other = "-" if isinstance(node.op, ast.Add) else "+"
        yield node, f"({ast.unparse(node.left)} {other} {ast.unparse(node.right)})"


EXTREMES = {
    "tl.maximum": "tl.minimum",
    "tl.minimum": "tl.maximum",
    "tl.max": "tl.min",
    "tl.min": "tl.max",
    "min": "max",
    "max": "min",
    "tl.sum": "tl.max",
}


def extreme(node: ast.AST, _scope: Scope) -> Iterator[Replacement]:
    """Minimum for maximum, and the other way round; the largest instead of the sum."""
    if isinstance(node, ast.Call) and _name(node) in EXTREMES:
        yield node.func, EXTREMES[_name(node)]


CLAMPS = ("tl.maximum", "tl.minimum", "min", "max", "tl.abs", "triton.next_power_of_2", "next_power_of_2")


def clamp(node: ast.AST, _scope: Scope) -> Iterator[Replacement]:
    """A clamp, an absolute value or a rounding up is left out."""
    if isinstance(node, ast.Call) and _name(node) in CLAMPS:
        for kept in node.args:
            yield node, ast.unparse(kept)
    if isinstance(node, ast.Call) and _name(node) in ("triton.cdiv", "cdiv"):
        yield node, f"({ast.unparse(node.args[0])} // {ast.unparse(node.args[1])})"


def axis(node: ast.AST, _scope: Scope) -> Iterator[Replacement]:
    """The other axis of the grid, or of a reduction."""
    if isinstance(node, ast.Call) and _name(node) == "tl.program_id":
        yield node, f"tl.program_id({1 - ast.literal_eval(node.args[0])})"
    if isinstance(node, ast.keyword) and node.arg == "axis":
        yield node.value, str(1 - ast.literal_eval(node.value))


def stride(node: ast.AST, scope: Scope) -> Iterator[Replacement]:
    """A stride of another axis or tensor: in a kernel the neighbouring parameter, in a launch the next dim's."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in scope.strides:
        place = scope.strides.index(node.id)
        others = scope.strides[max(place - 1, 0) : place] + scope.strides[place + 1 : place + 2]
        for other in others or ("1",):
            yield node, other
        yield node, f"({node.id} + 1)"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "stride" and node.args:
        of, dim = ast.unparse(node.func.value), ast.literal_eval(node.args[0])
        yield node, f"{of}.stride({dim + 1 if dim == 0 else dim - 1})"
        if dim == 0:
            yield node, f"{of}.shape[-1]"


NARROWER = {
    "int64": ("int32",),
    "int32": ("int16",),
    "float32": ("float16", "bfloat16"),
    "bfloat16": ("float16",),
    "uint8": ("int16",),
}


def cast(node: ast.AST, _scope: Scope) -> Iterator[Replacement]:
    """A cast is dropped."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "to":
        yield node, f"({ast.unparse(node.func.value)})"


def dtype(node: ast.AST, _scope: Scope) -> Iterator[Replacement]:
    """A narrower dtype."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("tl", "torch"):
        for narrower in NARROWER.get(node.attr, ()):
            yield node, f"{node.value.id}.{narrower}"


def other(node: ast.AST, _scope: Scope) -> Iterator[Replacement]:
    """A masked load gives something else."""
    if isinstance(node, ast.keyword) and node.arg == "other":
        value = ast.unparse(node.value)
        yield node.value, {"-1": "0", "0": "1", "0.0": "1.0"}.get(value, "0")


def constant(node: ast.AST, _scope: Scope) -> Iterator[Replacement]:
    """A number is one off, or half of what it should be."""
    if not isinstance(node, ast.Constant):
        return
    if node.value is True or node.value is False:
        yield node, str(not node.value)
    elif isinstance(node.value, int):
        yield node, f"{node.value + 1}"
        if node.value > 0:
            yield node, f"{node.value - 1}"
    elif isinstance(node.value, float):
        yield node, repr(node.value / 2 if node.value else 1.0)
    elif node.value in ("-inf", "shuffle", "ue8m0"):
        yield node, {"-inf": '"0"', "shuffle": '"normal"', "ue8m0": '"fp32"'}[node.value]


def loop(node: ast.AST, _scope: Scope) -> Iterator[Replacement]:
    """A loop leaves out its first or its last turn, or takes one more."""
    if isinstance(node, ast.For) and isinstance(node.iter, ast.Call) and _name(node.iter) in ("range", "tl.range"):
        bound = ast.unparse(node.iter.args[-1])
        for text in (f"range({bound} - 1)", f"range(1, {bound})", f"range({bound} + 1)"):
            yield node.iter, text


def branch(node: ast.AST, _scope: Scope) -> Iterator[Replacement]:
    """A condition always holds, or never does."""
    if isinstance(node, ast.If | ast.IfExp):
        yield node.test, "True"
        yield node.test, "False"
    if isinstance(node, ast.Call) and _name(node) in ("tl.where", "torch.where"):
        test, then, otherwise = (ast.unparse(argument) for argument in node.args)
        yield node, f"{_name(node)}({test}, {otherwise}, {then})"


def statement(node: ast.AST, scope: Scope) -> Iterator[Replacement]:
    """A statement is missing: a store, a call, a second assignment to a name."""
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    again = isinstance(node, ast.Assign) and all(
        isinstance(target, ast.Subscript) or (isinstance(target, ast.Name) and target.id in scope.assigned)
        for target in node.targets
    )
    if is_call or again:
        yield node, "pass"


OPERATORS: dict[str, Operator] = {
    "mask": mask,
    "condition": condition,
    "comparison": comparison,
    "division": division,
    "addition": addition,
    "extreme": extreme,
    "clamp": clamp,
    "axis": axis,
    "stride": stride,
    "cast": cast,
    "dtype": dtype,
    "other": other,
    "constant": constant,
    "loop": loop,
    "branch": branch,
    "statement": statement,
}
