"""The statements of a jit function, and the function as a whole, rewritten into Python that asks the runtime."""

import ast
from collections.abc import Iterable

from indexfuzz.lockstep.language.expressions import ExpressionRewriter
from indexfuzz.lockstep.language.paths import Paths
from indexfuzz.lockstep.language.rewriter import LOAD, STORE, hide, locate, walk, word
from indexfuzz.lockstep.triton_api.functions import BUILTIN_NAMES, is_visible
from indexfuzz.lockstep.triton_api.types import STATIC_RANGE


class StatementRewriter(ExpressionRewriter):
    """Rewrites statements, and with them a whole function."""

    paths: Paths | None = None

    def function(self, tree: ast.FunctionDef) -> tuple[ast.Module, set[str], tuple[str, ...]]:
        """The function in a module of its own, every name in it, and those of its parameters."""
        arguments = tree.args
        if arguments.kwarg is not None:
            raise self.unsupported(tree, "**kwargs parameters")
        names = [a.arg for a in [*arguments.posonlyargs, *arguments.args]]
        if arguments.vararg is not None:
            names.append(arguments.vararg.arg)
        names += [a.arg for a in arguments.kwonlyargs]
        found = [node for node in walk(tree) if type(node) is ast.Name]
        self.locals = {*names, *(node.id for node in found if type(node.ctx) is ast.Store)}
        if not self.is_library:
            self.paths = Paths(tree, names)
        body = self.block(tree.body)
        shadowed = [n for n in self.locals - set(names) if n in self.scope and is_visible(n, self.scope[n])]
        prologue: list[ast.stmt] = [self._doubt_function(tree, names)] if self._is_doubtful() else []
        for name in sorted(shadowed):
            constant = self.constant(self.scope[name], raw=True)
            prologue.append(locate(ast.Assign([_written(name)], constant), tree))
        made = ast.FunctionDef(
            name=tree.name,
            args=ast.arguments(
                posonlyargs=[], args=[hide(ast.arg(n)) for n in names], kwonlyargs=[], kw_defaults=[], defaults=[]
            ),
            body=prologue + body,
            decorator_list=[],
        )
        module = ast.Module([locate(made, tree)], type_ignores=[])
        return module, {node.id for node in found}, tuple(names)

    def block(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        result: list[ast.stmt] = []
        for statement in statements:
            handler = getattr(self, f"on_{type(statement).__name__}", None)
            if handler is None:
                raise self.unsupported(statement, f"the statement `{type(statement).__name__}`")
            for made in handler(statement):
                locate(made, statement)
                result.append(made)
            if isinstance(statement, ast.Return):
                break
        return result or [hide(ast.Pass())]

    def _is_doubtful(self) -> bool:
        """Whether a function has what Triton may refuse on paths that are not taken, too."""
        if self.paths is None:
            return False
        read = self.paths.reads
        seen = {name for name in read - self.locals if name in self.scope and is_visible(name, self.scope[name])}
        unknown = read - self.locals - seen - BUILTIN_NAMES.keys()
        return bool(unknown) or self.paths.has_doubtful_return or self.paths.has_doubtful_constant

    def _doubt_function(self, tree: ast.FunctionDef, parameters: list[str]) -> ast.stmt:
        """Ask Triton whether it compiles the function for what it is given."""
        function = self.constant(object(), raw=True)
        return locate(ast.Expr(self.helper("_ls_doubt_function", tree, function, *_read(parameters))), tree)

    def doubt(self, at: ast.AST) -> ast.stmt:
        """Ask Triton whether it compiles the kernel."""
        return ast.Expr(self.helper("_ls_doubt", at))

    def on_Pass(self, node: ast.Pass) -> list[ast.stmt]:
        return [node]

    def on_Expr(self, node: ast.Expr) -> list[ast.stmt]:
        if isinstance(node.value, ast.Constant):
            return [ast.Pass()]
        return [ast.Expr(self.expr(node.value))]

    def on_Assign(self, node: ast.Assign) -> list[ast.stmt]:
        if len(node.targets) != 1:
            raise self.unsupported(node, "assignment to several targets at once")
        target = node.targets[0]
        self.check_target(target)
        helper = "_ls_assign"
        if isinstance(target, ast.Name) and target.id in self.awaiting:
            self.awaiting.discard(target.id)
            helper = "_ls_constexpr"
        return [ast.Assign([target], self.helper(helper, node, self.expr(node.value)))]

    def on_AnnAssign(self, node: ast.AnnAssign) -> list[ast.stmt]:
        if not isinstance(node.target, ast.Name):
            raise self.unsupported(node, "an annotated target that is not a name")
        constexpr = self.is_constexpr_annotation(node.annotation)
        if node.value is None:
            if constexpr:
                self.awaiting.add(node.target.id)
            return [ast.Pass()]
        helper = "_ls_constexpr" if constexpr else "_ls_assign"
        return [ast.Assign([node.target], self.helper(helper, node, self.expr(node.value)))]

    def on_AugAssign(self, node: ast.AugAssign) -> list[ast.stmt]:
        self.check_target(node.target)
        if not isinstance(node.target, ast.Name):
            raise self.unsupported(node, "augmented assignment to something other than a name")
        left = locate(ast.Name(node.target.id, LOAD), node)
        value = self.binary(node, node.op, left, self.expr(node.value))
        return [ast.Assign([node.target], self.helper("_ls_assign", node, value))]

    def on_If(self, node: ast.If) -> list[ast.stmt]:
        meeting = self.paths.meetings.get(node) if self.paths is not None else None
        decision = [self.expr(node.test), self.place_of_test(node.test)]
        then, otherwise = self.block(node.body), self.block(node.orelse) if node.orelse else []
        if meeting is None:
            return [ast.If(self.helper("_ls_branch", node.test, *decision), then, otherwise)]
        fork = f"_ls_fork{len(self.constants)}"
        decided = self.helper("_ls_fork", node.test, *decision, *_read(meeting.before))
        names = _read((*meeting.before, *meeting.made))
        at = self.constant(meeting, raw=True)
        joined = self.helper("_ls_join", node, _name(fork), at, *names)
        branch = ast.If(_name(fork), then, otherwise)
        return [ast.Assign([_written(fork)], decided), branch, ast.Expr(joined)]

    def on_While(self, node: ast.While) -> list[ast.stmt]:
        if node.orelse:
            raise self.unsupported(node, "`else` after a loop")
        loop = self.place(node, ast.unparse(node.test))
        test = self.helper("_ls_again", node.test, self.expr(node.test), self.place_of_test(node.test), loop)
        return self._around_loop(node, ast.While(test, self.block(node.body), []))

    def on_For(self, node: ast.For) -> list[ast.stmt]:
        if node.orelse:
            raise self.unsupported(node, "`else` after a loop")
        if not isinstance(node.iter, ast.Call) or not isinstance(node.target, ast.Name):
            raise self.unsupported(node, "a loop over anything but range, tl.range and tl.static_range")
        call = node.iter
        iterator = self.helper(
            "_ls_iterate",
            call,
            self.expr(call.func),
            self.arguments(call.args),
            self.keywords(call.keywords),
            self._place_of_loop(call),
        )
        loop = ast.For(node.target, iterator, self.block(node.body), [])
        return [loop] if self._is_unrolled(call.func) else self._around_loop(node, loop)

    def _is_unrolled(self, iterator: ast.expr) -> bool:
        try:
            return self.static(iterator) is STATIC_RANGE
        except (LookupError, AttributeError):
            return False

    def _around_loop(self, node: ast.For | ast.While, loop: ast.For | ast.While) -> list[ast.stmt]:
        """A translated loop, with what looks at the names that it carries from round to round."""
        meeting = self.paths.meetings.get(node) if self.paths is not None else None
        if meeting is None:
            return [loop]
        made: list[ast.stmt] = [loop]
        if meeting.before:
            types = f"_ls_types{len(self.constants)}"
            self.constant(meeting, raw=True)
            before = ast.Assign([_written(types)], self.helper("_ls_types", node, *_read(meeting.before)))
            carry = self.helper("_ls_carry", node, _name(types), *_read(meeting.before))
            loop.body.append(locate(ast.Expr(carry), node))
            made.insert(0, before)
        if meeting.partial:
            made.append(self.doubt(node))
        return made

    def _place_of_loop(self, call: ast.Call) -> ast.expr:
        """The place of the condition on which a loop is entered: that its bounds leave it a first round."""
        first, *others = [ast.Constant(0), *call.args] if len(call.args) == 1 else call.args or [ast.Constant(0)]
        is_plain = others and not any(isinstance(bound, ast.Starred) for bound in call.args)
        text = ast.unparse(ast.Compare(first, [ast.Lt()], [others[0]])) if is_plain else ast.unparse(call)
        return self.place(call, text)

    def on_Return(self, node: ast.Return) -> list[ast.stmt]:
        if node.value is None:
            return [ast.Return(None)]
        return [ast.Return(self.helper("_ls_return", node, self.expr(node.value)))]

    def on_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        message = self.expr(node.msg) if node.msg is not None else word("")
        return [ast.Expr(self.helper("_ls_assert", node, self.expr(node.test), message))]


def _read(names: Iterable[str]) -> list[ast.expr]:
    return [_name(name) for name in names]


def _name(name: str) -> ast.expr:
    return hide(ast.Name(name, LOAD))


def _written(name: str) -> ast.expr:
    return hide(ast.Name(name, STORE))
