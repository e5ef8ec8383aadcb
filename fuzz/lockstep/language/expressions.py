"""The expressions of a jit function, rewritten into calls of the runtime's helpers."""

import ast
from typing import Any, Final

from indexfuzz.lockstep.language.recording import literal
from indexfuzz.lockstep.language.rewriter import LOAD, Rewriter, hide, locate, walk, word
from indexfuzz.lockstep.triton_api.types import Constexpr, Slice, Tuple

_BINARY: Final = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "truediv",
    ast.FloorDiv: "floordiv",
    ast.Mod: "mod",
    ast.Pow: "pow",
    ast.LShift: "lshift",
    ast.RShift: "rshift",
    ast.BitAnd: "and",
    ast.BitOr: "or",
    ast.BitXor: "xor",
    ast.Eq: "eq",
    ast.NotEq: "ne",
    ast.Lt: "lt",
    ast.LtE: "le",
    ast.Gt: "gt",
    ast.GtE: "ge",
}
_UNARY: Final = {ast.USub: "__neg__", ast.UAdd: "__pos__", ast.Not: "__not__", ast.Invert: "__invert__"}
_BOOLEAN: Final = {ast.And: "logical_and", ast.Or: "logical_or"}


def _literal_index(node: ast.expr | None) -> Any:
    """An index that consists of literals, as the language knows it; LookupError for any other."""
    if isinstance(node, ast.Constant):
        return Constexpr(node.value)
    if isinstance(node, ast.Tuple):
        return Tuple([_literal_index(element) for element in node.elts])
    if isinstance(node, ast.Slice):
        parts = (node.lower, node.upper, node.step)
        return Slice(*(None if part is None else _literal_index(part) for part in parts))
    raise LookupError


class ExpressionRewriter(Rewriter):
    """Rewrites expressions."""

    def expr(self, node: ast.expr) -> ast.expr:
        handler = getattr(self, f"on_{type(node).__name__}", None)
        if handler is None:
            raise self.unsupported(node, f"the expression `{type(node).__name__}`")
        made: ast.expr = handler(node)
        return locate(made, node)

    def on_Constant(self, node: ast.Constant) -> ast.expr:
        return self.constant(node.value)

    def on_Name(self, node: ast.Name) -> ast.expr:
        return ast.Name(node.id, LOAD)

    def on_Attribute(self, node: ast.Attribute) -> ast.expr:
        """`a.b`; of a module without a detour."""
        if self.is_module(node.value):
            return ast.Attribute(self.expr(node.value), node.attr, LOAD)
        return self.helper("_ls_attribute", node, self.expr(node.value), word(node.attr))

    def on_Call(self, node: ast.Call) -> ast.expr:
        return self.helper(
            "_ls_call", node, self.expr(node.func), self.arguments(node.args), self.keywords(node.keywords)
        )

    def on_BinOp(self, node: ast.BinOp) -> ast.expr:
        return self.binary(node, node.op, self.expr(node.left), self.expr(node.right))

    def on_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        return self.helper("_ls_unary", node, word(_UNARY[type(node.op)]), self.expr(node.operand))

    def on_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        """`a and b`, its operands evaluated one by one."""
        values = hide(ast.Tuple([self.thunk(v) for v in node.values], LOAD))
        return self.helper("_ls_boolean", node, word(_BOOLEAN[type(node.op)]), values)

    def on_Compare(self, node: ast.Compare) -> ast.expr:
        """A comparison, or a chain of them."""
        if len(node.ops) == 1:
            left, right = self.expr(node.left), self.expr(node.comparators[0])
            return self.compare(node, node.ops[0], left, right, self.place(node, ast.unparse(node)))
        thunks: list[ast.expr] = []
        for i, op in enumerate(node.ops):
            left = self.expr(node.left) if i == 0 else hide(ast.Name("_ls_left", LOAD))
            pair = hide(ast.Tuple([left, self.expr(node.comparators[i])], LOAD))
            if isinstance(op, ast.Is | ast.IsNot):
                raise self.unsupported(node, "`is` in a chain of comparisons")
            parameters = [] if i == 0 else [hide(ast.arg("_ls_left"))]
            before = node.left if i == 0 else node.comparators[i - 1]
            place = self.place(node, ast.unparse(ast.Compare(before, [op], [node.comparators[i]])))
            link = [word(_BINARY[type(op)]), self.lambda_(parameters, pair), place]
            thunks.append(hide(ast.Tuple(link, LOAD)))
        return self.helper("_ls_chain", node, hide(ast.Tuple(thunks, LOAD)))

    def on_IfExp(self, node: ast.IfExp) -> ast.expr:
        test = self.expr(node.test)
        return self.helper(
            "_ls_choose", node, test, self.thunk(node.body), self.thunk(node.orelse), self.place_of_test(node.test)
        )

    def on_Tuple(self, node: ast.Tuple) -> ast.expr:
        return self.helper("_ls_tuple", node, hide(ast.List([self.expr(e) for e in node.elts], LOAD)))

    def on_List(self, node: ast.List) -> ast.expr:
        """A list, which the language makes a tuple."""
        return self.helper("_ls_tuple", node, hide(ast.List([self.expr(e) for e in node.elts], LOAD)))

    def on_Subscript(self, node: ast.Subscript) -> ast.expr:
        """`a[b]`; an index of literals, such as `[:, None]`, is made once."""
        try:
            index = self.constant(literal(_literal_index(node.slice)), raw=True)
        except LookupError:
            index = self.expr(node.slice)
        return self.helper("_ls_subscript", node, self.expr(node.value), index)

    def on_Slice(self, node: ast.Slice) -> ast.expr:
        parts = [self.expr(p) if p is not None else word(None) for p in (node.lower, node.upper, node.step)]
        return self.helper("_ls_slice", node, *parts)

    def on_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        parts: list[ast.expr] = []
        for value in node.values:
            if isinstance(value, ast.Constant):
                parts.append(value)
            elif isinstance(value, ast.FormattedValue):
                parts.append(hide(ast.Tuple([self.expr(value.value), word(value.conversion)], LOAD)))
        return self.helper("_ls_format", node, hide(ast.List(parts, LOAD)))

    def on_ListComp(self, node: ast.ListComp) -> ast.expr:
        """A comprehension over one name."""
        generator = node.generators[0]
        target = generator.target
        if len(node.generators) != 1 or not isinstance(target, ast.Name):
            raise self.unsupported(node, "a comprehension over more than one name")
        parameter = [hide(ast.arg(target.id))]
        conditions = hide(ast.Tuple([self.expr(c) for c in generator.ifs], LOAD))
        return self.helper(
            "_ls_comprehension",
            node,
            self.expr(generator.iter),
            self.lambda_(parameter, self.expr(node.elt)),
            self.lambda_(parameter, conditions),
        )

    def on_NamedExpr(self, node: ast.NamedExpr) -> ast.expr:
        return ast.NamedExpr(node.target, self.helper("_ls_assign", node, self.expr(node.value)))

    def binary(self, node: ast.AST, op: ast.operator, left: ast.expr, right: ast.expr) -> ast.expr:
        """A binary operator on rewritten operands."""
        name = _BINARY.get(type(op))
        if name is None:
            raise self.unsupported(node, f"the operator `{type(op).__name__}`")
        return self.helper("_ls_binary", node, word(name), left, right)

    def compare(self, node: ast.AST, op: ast.cmpop, left: ast.expr, right: ast.expr, place: ast.expr) -> ast.expr:
        """One comparison of rewritten operands."""
        if isinstance(op, ast.Is | ast.IsNot):
            helper = "_ls_is" if isinstance(op, ast.Is) else "_ls_is_not"
            return self.helper(helper, node, left, right)
        name = _BINARY.get(type(op))
        if name is None:
            raise self.unsupported(node, f"the comparison `{type(op).__name__}`")
        return self.helper("_ls_compare", node, word(name), left, right, place)

    def place_of_test(self, test: ast.expr) -> ast.expr:
        """The place of what decides a branch; None where it compares something: then these comparisons have places."""
        compares = any(isinstance(part, ast.Compare) for part in walk(test))
        return word(None) if compares else self.place(test, ast.unparse(test))

    def arguments(self, nodes: list[ast.expr]) -> ast.expr:
        """Positional arguments as a list."""
        made: list[ast.expr] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                made.append(locate(ast.Starred(self.expr(node.value), LOAD), node))
            else:
                made.append(self.expr(node))
        return hide(ast.List(made, LOAD))

    def keywords(self, nodes: list[ast.keyword]) -> ast.expr:
        """Keyword arguments as a dict."""
        if any(k.arg is None for k in nodes):
            raise self.unsupported(nodes[0].value, "`**` in a call")
        return hide(ast.Dict([word(k.arg) for k in nodes], [self.expr(k.value) for k in nodes]))

    def thunk(self, node: ast.expr) -> ast.expr:
        """An expression to be evaluated later, or never."""
        if any(isinstance(n, ast.NamedExpr) for n in walk(node)):
            raise self.unsupported(node, "`:=` inside an expression that may not be evaluated")
        return self.lambda_([], self.expr(node))

    def check_target(self, target: ast.expr) -> None:
        """Refuse a target that is neither a name nor a tuple of them."""
        if isinstance(target, ast.Tuple):
            for element in target.elts:
                self.check_target(element)
        elif not isinstance(target, ast.Name):
            raise self.unsupported(target, "assignment to something other than a name")
