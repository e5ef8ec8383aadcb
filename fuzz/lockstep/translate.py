"""Rewrite a jit function into Python that asks the runtime for every operation.

The result has the original file name and line numbers, so that a frame of it is a place in the kernel. What the
rewrite produces follows the order in which Triton's code generator visits the same source.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from indexfuzz.lockstep import triton_api
from indexfuzz.lockstep.source import MARKER
from indexfuzz.lockstep.translate_expressions import ExpressionRewriter


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


class _Rewriter(ExpressionRewriter):
    """Rewrites statements, and with them a whole function."""

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

    def on_Break(self, node: ast.Break) -> list[ast.stmt]:  # noqa: N802
        raise self.unsupported(node, "`break` (Triton does not compile it either)")

    def on_Continue(self, node: ast.Continue) -> list[ast.stmt]:  # noqa: N802
        raise self.unsupported(node, "`continue` (Triton does not compile it either)")

    def on_Return(self, node: ast.Return) -> list[ast.stmt]:  # noqa: N802
        if node.value is None:
            return [ast.Return(None)]
        return [ast.Return(self.helper("_ls_return", node, self.expr(node.value)))]

    def on_Assert(self, node: ast.Assert) -> list[ast.stmt]:  # noqa: N802
        message = self.expr(node.msg) if node.msg is not None else ast.Constant("")
        return [ast.Expr(self.helper("_ls_assert", node, self.expr(node.test), message))]
