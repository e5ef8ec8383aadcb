"""Rewrite a jit function into Python that asks the runtime for every operation.

The result has the original file name and line numbers, so that a frame of it is a place in the kernel. What the
rewrite produces follows the order in which Triton's code generator visits the same source.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from indexfuzz.lockstep.language.statements import StatementRewriter
from indexfuzz.lockstep.tracking.sites import MARKER
from indexfuzz.lockstep.triton_api.functions import (
    BUILTIN_NAMES,
    defaults_of,
    is_language_source,
    is_plain,
    is_visible,
    look_up,
    parse_function,
    visible_scope,
)


@dataclass(slots=True)
class Translated:
    """A jit function as Python: `call` takes the parameters by position; is_plain says that none is variadic."""

    call: Callable[..., Any]
    name: str
    file: str
    parameters: tuple[str, ...]
    defaults: dict[str, Any]
    is_plain: bool
    namespace: dict[str, Any]
    free: tuple[str, ...]
    function: Any
    launch: int = field(default=-1)

    def refresh(self, launch: int) -> None:
        """Look the free names up again, once per launch: a kernel sees its globals as they are now."""
        if self.launch == launch:
            return
        self.launch = launch
        known = self.namespace
        for name, value in look_up(self.function, self.free):
            if (name not in known or known[name] is not value) and is_visible(name, value):
                self.namespace[name] = value


def translate(function: Any, runtime: dict[str, Any]) -> Translated:
    """Translate one jit function; `runtime` maps the helper names that the result calls to the helpers.

    Raises UnsupportedFeature for syntax that has no translation.
    """
    tree, file = parse_function(function)
    current = visible_scope(function)
    is_library = is_language_source(function.fn.__module__)
    rewriter = StatementRewriter(file, function.fn.__name__, current, is_library=is_library)
    module, used, parameters = rewriter.function(tree)
    free = tuple(sorted(n for n in used - rewriter.locals if n in current and is_visible(n, current[n])))
    namespace: dict[str, Any] = {"__builtins__": {}, MARKER: True, "__name__": function.fn.__module__}
    namespace |= dict(BUILTIN_NAMES) | {n: current[n] for n in free} | runtime | rewriter.constants
    code = compile(module, file, "exec")
    exec(code, namespace)  # noqa: S102
    signature = function.signature
    return Translated(
        namespace[tree.name],
        function.fn.__name__,
        file,
        parameters,
        defaults_of(signature),
        is_plain(signature),
        namespace,
        free,
        function,
    )
