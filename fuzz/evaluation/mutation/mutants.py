"""The mutants of the built-in kernels, enumerated in the order of their places in the source."""

import ast
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from indexfuzz.evaluation.mutation.operators import OPERATORS, Scope
from indexfuzz.implementations.faults.planting import original_sources
from indexfuzz.stages.table import EVERY, STATEFUL

FILES = tuple(sorted({f"kernels/{source}.py" for stage in EVERY for source in stage.sources}))
"""Files that cases of one step run."""

SESSION_FILES = tuple(sorted({f"kernels/{source}.py" for stage in STATEFUL for source in stage.sources}))
"""Files that sessions alone run."""

PLAIN_PYTORCH = frozenset({"rotate_compiled", "_neox_rotation", "_interleaved_rotation", "_compiled_rotation"})
"""RoPE by PyTorch operations: no kernel, and cases that compile take seconds each, so campaigns draw none."""

EXAMINES = frozenset(
    {
        *("require", "require_choice", "require_tensor", "require_head_dim", "require_quant_group", "require_cache"),
        *("require_affine", "require_angles", "_require_table", "require_step", "require_rings", "require_keys"),
        *("require_powers_of_two", "require_tokens"),
    }
)
"""Checks of arguments; kernels/checks.py and its callers have tests of their own."""


@dataclass(frozen=True, order=True)
class Mutant:
    """One small mistake: `operator` turned `old` into `new` in one line of a kernel file.

    `before` and `after` are the edit that plants it; `before` occurs exactly once in the file.
    """

    file: str
    line: int
    operator: str
    old: str
    new: str
    function: str
    id: str
    before: str
    after: str

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that show mistakes of the mutated file."""
        every = (*EVERY, *STATEFUL)
        own = (stage.name for stage in every if self.file in {f"kernels/{source}.py" for source in stage.sources})
        return tuple(dict.fromkeys(own))


@cache
def enumerate_mutants(files: tuple[str, ...] = (*FILES, *SESSION_FILES)) -> tuple[Mutant, ...]:
    """Every mutant, in source order; the ids stay while their lines stay as they are."""
    sources = original_sources()
    return tuple(mutant for file in files for mutant in mutants_of(file, sources[file]))


def choose_mutants(words: Sequence[str]) -> tuple[Mutant, ...]:
    """Mutants whose id, file (gather) or operator is one of the words; all of them without any.

    Raises ValueError for a word that chooses nothing.
    """
    every = enumerate_mutants()
    labels = {m.id: {m.id, m.operator, m.file.removeprefix("kernels/").removesuffix(".py")} for m in every}
    for word in words:
        if not any(word in own for own in labels.values()):
            raise ValueError(f"no mutant, operator or kernel file is called {word!r}")
    return tuple(m for m in every if not words or labels[m.id] & set(words))


def mutants_of(file: str, text: str) -> tuple[Mutant, ...]:
    """The mutants of one file's text, each text once."""
    source = _Source(file, text)
    found: dict[str, Mutant] = {}
    for function in ast.parse(text).body:
        if not isinstance(function, ast.FunctionDef) or function.name in PLAIN_PYTORCH:
            continue
        scope = _scope(function)
        for node in _walk(function.body, scope):
            for name, operator in OPERATORS.items():
                for target, new in operator(node, scope):
                    if _compiles(source.edited(function, target, new)):
                        mutant = source.mutant(function.name, name, target, new)
                        found.setdefault(mutant.after + mutant.before, mutant)
    return tuple(found.values())


def _scope(function: ast.FunctionDef) -> Scope:
    arguments = [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]
    return Scope(
        strides=tuple(name for name in arguments if name.endswith("_stride")),
        assigned=set(arguments),
    )


def _walk(body: list[ast.stmt], scope: Scope) -> Iterator[ast.AST]:
    """Every node of the statements but docstrings, checks of arguments and annotations, outermost first."""
    for node in body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _callee(node.value) in EXAMINES:
            continue
        yield node
        yield from _inside(node, scope)
        scope.assigned |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name) and _is_store(name)}


def _inside(node: ast.AST, scope: Scope) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            continue
        yield from (inner for inner in ast.walk(child) if not isinstance(inner, ast.expr_context | ast.operator))
    for block in ("body", "orelse"):
        inner_body = getattr(node, block, None)
        if isinstance(inner_body, list):
            yield from _walk(inner_body, scope)


def _is_store(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _callee(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _compiles(text: str) -> bool:
    try:
        compile(text, "mutant", "exec")
    except SyntaxError:
        return False
    return True


class _Source:
    """A file's text, to be edited by the positions of its syntax tree, which count bytes."""

    def __init__(self, file: str, text: str) -> None:
        self._file = file
        self._bytes = text.encode()
        self._lines = self._bytes.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def edited(self, function: ast.FunctionDef, target: ast.AST, new: str) -> str:
        """A function, without its decorators, that has `new` in the place of a node."""
        start, end = self._place(target)
        low, high = self._starts[function.lineno - 1], self._starts[function.end_lineno or function.lineno]
        return (self._bytes[low:start] + new.encode() + self._bytes[end:high]).decode()

    def _place(self, target: ast.AST) -> tuple[int, int]:
        """The first byte of a node, and the first behind it."""
        first, last = target.lineno - 1, target.end_lineno - 1  # type: ignore[attr-defined]
        return self._starts[first] + target.col_offset, self._starts[last] + target.end_col_offset  # type: ignore[attr-defined]

    def mutant(self, function: str, operator: str, target: ast.AST, new: str) -> Mutant:
        """The mutant that has `new` in the place of a node."""
        first, last = target.lineno - 1, target.end_lineno - 1  # type: ignore[attr-defined]
        start, end = self._place(target)
        before_first, after_last = self._unique(first, last)
        low, high = self._starts[before_first], self._starts[after_last + 1]
        before = self._bytes[low:high].decode()
        after = (self._bytes[low:start] + new.encode() + self._bytes[end:high]).decode()
        own = self._bytes[self._starts[first] : self._starts[last + 1]].decode()
        place = "\n".join((self._file, function, operator, own, str(target.col_offset), new))  # type: ignore[attr-defined]
        occurrence = self._bytes[: self._starts[first]].decode().count(own)
        stem = self._file.removeprefix("kernels/").removesuffix(".py")
        digest = hashlib.sha256(f"{place}\n{occurrence}".encode()).hexdigest()[:8]
        return Mutant(
            self._file,
            first + 1,
            operator,
            " ".join(self._bytes[start:end].decode().split()),
            new,
            function,
            f"{stem}-{digest}",
            before,
            after,
        )

    def _unique(self, first: int, last: int) -> tuple[int, int]:
        """The fewest whole lines around lines first to last whose text occurs once in the file."""
        while self._bytes.count(self._bytes[self._starts[first] : self._starts[last + 1]]) > 1:
            first, last = max(first - 1, 0), min(last + 1, len(self._lines) - 1)
        return first, last
