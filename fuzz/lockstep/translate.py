"""Rewrite a jit function into Python that asks the runtime for every operation.

The result has the original file name and line numbers, so that a frame of it is a place in the kernel. What the
rewrite produces follows the order in which Triton's code generator visits the same source.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final

from indexfuzz.lockstep import triton_api
from indexfuzz.lockstep.source import MARKER
from indexfuzz.lockstep.violations import UnsupportedFeature

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


@dataclass(slots=True)
class Translated:
    """A jit function as Python: `call` takes the parameters by position."""

    call: Callable[..., Any]
    name: str
    file: str
    parameters: tuple[str, ...]
    defaults: dict[str, Any]
    variadic: str | None
    namespace: dict[str, Any]
    free: tuple[str, ...]
    function: Any
    launch: int = field(default=-1)

    def refresh(self, launch: int) -> None:
        """Look the free names up again, once per launch: a kernel sees its globals as they are now."""
        if self.launch == launch:
            return
        self.launch = launch
        for name, value in triton_api.looked_up(self.function, self.free):
            if triton_api.is_visible(name, value):
                self.namespace[name] = value


def translate(function: Any, runtime: dict[str, Any]) -> Translated:
    """Translate one jit function; `runtime` maps the helper names that the result calls to the helpers.

    Raises UnsupportedFeature for syntax that has no translation.
    """
    tree, file, first_line = triton_api.parse(function)
    ast.increment_lineno(tree, first_line - tree.lineno)
    current = triton_api.scope(function)
    rewriter = _Rewriter(file, function.fn.__name__, current)
    module, locals_, parameters = rewriter.function(tree)
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    free = tuple(sorted(n for n in used - locals_ if n in current and triton_api.is_visible(n, current[n])))
    namespace: dict[str, Any] = {"__builtins__": {}, MARKER: True, "__name__": function.fn.__module__}
    namespace |= dict(triton_api.BUILTIN_NAMES) | {n: current[n] for n in free} | runtime | rewriter.constants
    code = compile(module, file, "exec")
    exec(code, namespace)  # noqa: S102
    signature = function.signature
    variadic = tree.args.vararg.arg if tree.args.vararg else None
    defaults = {p.name: p.default for p in signature.parameters.values() if p.default is not p.empty}
    return Translated(
        namespace[tree.name], function.fn.__name__, file, parameters, defaults, variadic, namespace, free, function
    )


class _Rewriter:
    def __init__(self, file: str, name: str, scope: dict[str, Any]) -> None:
        self.file = file
        self.name = name
        self.scope = scope
        self.constants: dict[str, Any] = {}
        self.locals: set[str] = set()
        self.awaiting: set[str] = set()

    # statements
    def function(self, tree: ast.FunctionDef) -> tuple[ast.Module, set[str], tuple[str, ...]]:
        arguments = tree.args
        if arguments.kwarg is not None:
            raise self.unsupported(tree, "**kwargs parameters")
        names = [a.arg for a in [*arguments.posonlyargs, *arguments.args]]
        if arguments.vararg is not None:
            names.append(arguments.vararg.arg)
        names += [a.arg for a in arguments.kwonlyargs]
        self.locals = set(names)
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self.locals.add(node.id)
        body = self.block(tree.body)
        shadowed = [n for n in self.locals - set(names) if n in self.scope and triton_api.is_visible(n, self.scope[n])]
        prologue: list[ast.stmt] = []
        for name in sorted(shadowed):
            constant = self.constant(self.scope[name], raw=True)
            prologue.append(ast.Assign([ast.Name(name, ast.Store())], constant, lineno=tree.lineno, col_offset=0))
        made = ast.FunctionDef(
            name=tree.name,
            args=ast.arguments(
                posonlyargs=[], args=[ast.arg(n) for n in names], kwonlyargs=[], kw_defaults=[], defaults=[]
            ),
            body=prologue + body,
            decorator_list=[],
        )
        module = ast.Module([ast.copy_location(made, tree)], type_ignores=[])
        return ast.fix_missing_locations(module), self.locals, tuple(names)

    def block(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        result: list[ast.stmt] = []
        for statement in statements:
            handler = getattr(self, f"on_{type(statement).__name__}", None)
            if handler is None:
                raise self.unsupported(statement, f"the statement `{type(statement).__name__}`")
            for made in handler(statement):
                ast.copy_location(made, statement)
                result.append(made)
            if isinstance(statement, ast.Return):
                break
        return result or [ast.Pass()]

    def on_Pass(self, node: ast.Pass) -> list[ast.stmt]:  # noqa: N802
        return [node]

    def on_Expr(self, node: ast.Expr) -> list[ast.stmt]:  # noqa: N802
        if isinstance(node.value, ast.Constant):
            return [ast.Pass()]
        return [ast.Expr(self.expr(node.value))]

    def on_Assign(self, node: ast.Assign) -> list[ast.stmt]:  # noqa: N802
        if len(node.targets) != 1:
            raise self.unsupported(node, "assignment to several targets at once")
        target = node.targets[0]
        self.check_target(target)
        helper = "_ls_assign"
        if isinstance(target, ast.Name) and target.id in self.awaiting:
            self.awaiting.discard(target.id)
            helper = "_ls_constexpr"
        return [ast.Assign([target], self.helper(helper, node, self.expr(node.value)))]

    def on_AnnAssign(self, node: ast.AnnAssign) -> list[ast.stmt]:  # noqa: N802
        if not isinstance(node.target, ast.Name):
            raise self.unsupported(node, "an annotated target that is not a name")
        constexpr = self.is_constexpr_annotation(node.annotation)
        if node.value is None:
            if constexpr:
                self.awaiting.add(node.target.id)
            return [ast.Pass()]
        helper = "_ls_constexpr" if constexpr else "_ls_assign"
        return [ast.Assign([node.target], self.helper(helper, node, self.expr(node.value)))]

    def on_AugAssign(self, node: ast.AugAssign) -> list[ast.stmt]:  # noqa: N802
        self.check_target(node.target)
        if not isinstance(node.target, ast.Name):
            raise self.unsupported(node, "augmented assignment to something other than a name")
        left = ast.copy_location(ast.Name(node.target.id, ast.Load()), node)
        value = self.binary(node, node.op, left, self.expr(node.value))
        return [ast.Assign([node.target], self.helper("_ls_assign", node, value))]

    def on_If(self, node: ast.If) -> list[ast.stmt]:  # noqa: N802
        test = self.helper("_ls_branch", node.test, self.expr(node.test))
        return [ast.If(test, self.block(node.body), self.block(node.orelse) if node.orelse else [])]

    def on_While(self, node: ast.While) -> list[ast.stmt]:  # noqa: N802
        if node.orelse:
            raise self.unsupported(node, "`else` after a loop")
        return [ast.While(self.helper("_ls_branch", node.test, self.expr(node.test)), self.block(node.body), [])]

    def on_For(self, node: ast.For) -> list[ast.stmt]:  # noqa: N802
        if node.orelse:
            raise self.unsupported(node, "`else` after a loop")
        if not isinstance(node.iter, ast.Call) or not isinstance(node.target, ast.Name):
            raise self.unsupported(node, "a loop over anything but range, tl.range and tl.static_range")
        call = node.iter
        iterator = self.helper(
            "_ls_iterate", call, self.expr(call.func), self.arguments(call.args), self.keywords(call.keywords)
        )
        return [ast.For(node.target, iterator, self.block(node.body), [])]

    def on_Return(self, node: ast.Return) -> list[ast.stmt]:  # noqa: N802
        if node.value is None:
            return [ast.Return(None)]
        return [ast.Return(self.helper("_ls_return", node, self.expr(node.value)))]

    def on_Assert(self, node: ast.Assert) -> list[ast.stmt]:  # noqa: N802
        message = self.expr(node.msg) if node.msg is not None else ast.Constant("")
        return [ast.Expr(self.helper("_ls_assert", node, self.expr(node.test), message))]

    # expressions
    def expr(self, node: ast.expr) -> ast.expr:
        handler = getattr(self, f"on_{type(node).__name__}", None)
        if handler is None:
            raise self.unsupported(node, f"the expression `{type(node).__name__}`")
        made: ast.expr = handler(node)
        return ast.copy_location(made, node)

    def on_Constant(self, node: ast.Constant) -> ast.expr:  # noqa: N802
        return self.constant(node.value)

    def on_Name(self, node: ast.Name) -> ast.expr:  # noqa: N802
        return ast.Name(node.id, ast.Load())

    def on_Attribute(self, node: ast.Attribute) -> ast.expr:  # noqa: N802
        if self.is_module(node.value):
            return ast.Attribute(self.expr(node.value), node.attr, ast.Load())
        return self.helper("_ls_attribute", node, self.expr(node.value), ast.Constant(node.attr))

    def on_Call(self, node: ast.Call) -> ast.expr:  # noqa: N802
        return self.helper(
            "_ls_call", node, self.expr(node.func), self.arguments(node.args), self.keywords(node.keywords)
        )

    def on_BinOp(self, node: ast.BinOp) -> ast.expr:  # noqa: N802
        return self.binary(node, node.op, self.expr(node.left), self.expr(node.right))

    def on_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:  # noqa: N802
        return self.helper("_ls_unary", node, ast.Constant(_UNARY[type(node.op)]), self.expr(node.operand))

    def on_BoolOp(self, node: ast.BoolOp) -> ast.expr:  # noqa: N802
        values = ast.Tuple([self.thunk(v) for v in node.values], ast.Load())
        return self.helper("_ls_boolean", node, ast.Constant(_BOOLEAN[type(node.op)]), values)

    def on_Compare(self, node: ast.Compare) -> ast.expr:  # noqa: N802
        if len(node.ops) == 1:
            return self.compare(node, node.ops[0], self.expr(node.left), self.expr(node.comparators[0]))
        thunks: list[ast.expr] = []
        for i, op in enumerate(node.ops):
            left = self.expr(node.left) if i == 0 else ast.Name("_ls_left", ast.Load())
            pair = ast.Tuple([left, self.expr(node.comparators[i])], ast.Load())
            if isinstance(op, ast.Is | ast.IsNot):
                raise self.unsupported(node, "`is` in a chain of comparisons")
            parameters = [] if i == 0 else [ast.arg("_ls_left")]
            thunks.append(ast.Tuple([ast.Constant(_BINARY[type(op)]), self.lambda_(parameters, pair)], ast.Load()))
        return self.helper("_ls_chain", node, ast.Tuple(thunks, ast.Load()))

    def on_IfExp(self, node: ast.IfExp) -> ast.expr:  # noqa: N802
        test = self.expr(node.test)
        return self.helper("_ls_choose", node, test, self.thunk(node.body), self.thunk(node.orelse))

    def on_Tuple(self, node: ast.Tuple) -> ast.expr:  # noqa: N802
        return self.helper("_ls_tuple", node, ast.List([self.expr(e) for e in node.elts], ast.Load()))

    def on_List(self, node: ast.List) -> ast.expr:  # noqa: N802
        return self.helper("_ls_tuple", node, ast.List([self.expr(e) for e in node.elts], ast.Load()))

    def on_Subscript(self, node: ast.Subscript) -> ast.expr:  # noqa: N802
        return self.helper("_ls_subscript", node, self.expr(node.value), self.expr(node.slice))

    def on_Slice(self, node: ast.Slice) -> ast.expr:  # noqa: N802
        parts = [self.expr(p) if p is not None else ast.Constant(None) for p in (node.lower, node.upper, node.step)]
        return self.helper("_ls_slice", node, *parts)

    def on_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:  # noqa: N802
        parts: list[ast.expr] = []
        for value in node.values:
            if isinstance(value, ast.Constant):
                parts.append(value)
            elif isinstance(value, ast.FormattedValue):
                parts.append(ast.Tuple([self.expr(value.value), ast.Constant(value.conversion)], ast.Load()))
        return self.helper("_ls_format", node, ast.List(parts, ast.Load()))

    def on_ListComp(self, node: ast.ListComp) -> ast.expr:  # noqa: N802
        generator = node.generators[0]
        target = generator.target
        if len(node.generators) != 1 or not isinstance(target, ast.Name):
            raise self.unsupported(node, "a comprehension over more than one name")
        parameter = [ast.arg(target.id)]
        conditions = ast.Tuple([self.expr(c) for c in generator.ifs], ast.Load())
        return self.helper(
            "_ls_comprehension",
            node,
            self.expr(generator.iter),
            self.lambda_(parameter, self.expr(node.elt)),
            self.lambda_(parameter, conditions),
        )

    def on_NamedExpr(self, node: ast.NamedExpr) -> ast.expr:  # noqa: N802
        return ast.NamedExpr(node.target, self.helper("_ls_assign", node, self.expr(node.value)))

    # pieces
    def binary(self, node: ast.AST, op: ast.operator, left: ast.expr, right: ast.expr) -> ast.expr:
        name = _BINARY.get(type(op))
        if name is None:
            raise self.unsupported(node, f"the operator `{type(op).__name__}`")
        return self.helper("_ls_binary", node, ast.Constant(name), left, right)

    def compare(self, node: ast.AST, op: ast.cmpop, left: ast.expr, right: ast.expr) -> ast.expr:
        if isinstance(op, ast.Is | ast.IsNot):
            helper = "_ls_is" if isinstance(op, ast.Is) else "_ls_is_not"
            return self.helper(helper, node, left, right)
        name = _BINARY.get(type(op))
        if name is None:
            raise self.unsupported(node, f"the comparison `{type(op).__name__}`")
        return self.helper("_ls_binary", node, ast.Constant(name), left, right)

    def arguments(self, nodes: list[ast.expr]) -> ast.expr:
        made: list[ast.expr] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                made.append(ast.copy_location(ast.Starred(self.expr(node.value), ast.Load()), node))
            else:
                made.append(self.expr(node))
        return ast.List(made, ast.Load())

    def keywords(self, nodes: list[ast.keyword]) -> ast.expr:
        if any(k.arg is None for k in nodes):
            raise self.unsupported(nodes[0].value, "`**` in a call")
        return ast.Dict([ast.Constant(k.arg) for k in nodes], [self.expr(k.value) for k in nodes])

    def thunk(self, node: ast.expr) -> ast.expr:
        if any(isinstance(n, ast.NamedExpr) for n in ast.walk(node)):
            raise self.unsupported(node, "`:=` inside an expression that may not be evaluated")
        return self.lambda_([], self.expr(node))

    def lambda_(self, parameters: list[ast.arg], body: ast.expr) -> ast.expr:
        arguments = ast.arguments(posonlyargs=[], args=parameters, kwonlyargs=[], kw_defaults=[], defaults=[])
        return ast.copy_location(ast.Lambda(arguments, body), body)

    def helper(self, name: str, at: ast.AST, *args: ast.expr) -> ast.expr:
        return ast.copy_location(ast.Call(ast.Name(name, ast.Load()), list(args), []), at)

    def constant(self, value: Any, *, raw: bool = False) -> ast.expr:
        name = f"_ls_c{len(self.constants)}"
        self.constants[name] = value if raw else triton_api.Constexpr(value)
        return ast.Name(name, ast.Load())

    def is_module(self, node: ast.expr) -> bool:
        try:
            return isinstance(self.static(node), ModuleType)
        except (LookupError, AttributeError):
            return False

    def static(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            if node.id in self.locals:
                raise LookupError(node.id)
            return self.scope[node.id]
        if isinstance(node, ast.Attribute):
            return getattr(self.static(node.value), node.attr)
        raise LookupError

    def is_constexpr_annotation(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return "constexpr" in node.value
        try:
            return self.static(node) is triton_api.Constexpr
        except (LookupError, AttributeError):
            return False

    def check_target(self, target: ast.expr) -> None:
        if isinstance(target, ast.Tuple):
            for element in target.elts:
                self.check_target(element)
        elif not isinstance(target, ast.Name):
            raise self.unsupported(target, "assignment to something other than a name")

    def unsupported(self, node: ast.AST, what: str) -> UnsupportedFeature:
        line = getattr(node, "lineno", 0)
        return UnsupportedFeature(f"{self.file}:{line}: {what} in {self.name} is not supported by lockstep")
