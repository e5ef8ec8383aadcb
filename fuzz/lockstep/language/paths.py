"""What the branches and loops of a jit function do to its names: which they assign, and which outlive them.

Python takes whatever a path leaves in a name. Triton compiles all paths: where they meet, a name has one type, and one
that a single path assigns is gone.
"""

import ast
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

Names = frozenset[str]

_NONE: Final[Names] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Meeting:
    """Where the paths of a branch or a loop meet.

    before has the names that it assigns and that surely were there before it, made others that are there behind it
    whichever path was taken; partial says that a later line needs a name which one of the paths did not assign.
    """

    before: tuple[str, ...]
    made: tuple[str, ...]
    partial: bool


class Paths:
    """The meetings of a function by statement, the names that it reads, and what else in it may depend on the path."""

    def __init__(self, function: ast.FunctionDef, parameters: Iterable[str]) -> None:
        self.meetings: dict[ast.stmt, Meeting] = {}
        self._reads: dict[ast.stmt, Names] = {}
        self._writes: dict[ast.stmt, Names] = {}
        self._needed: dict[ast.stmt, Names] = {}
        self._counts: Counter[str] = Counter()
        self._annotated: set[str] = set()
        self._values = 0
        self._returns_in_loop = False
        self._look(function.body, in_loop=False)
        self._live(function.body, _NONE)
        names = frozenset(parameters)
        self._define(function.body, names, names)
        self.reads = _NONE.union(*self._reads.values())
        self.has_doubtful_return = self._values > 1 or self._returns_in_loop
        self.has_doubtful_constant = any(self._counts[name] > 1 for name in self._annotated)

    def _look(self, statements: Sequence[ast.stmt], *, in_loop: bool) -> Names:
        """Note what each statement reads by itself and writes with all that is in it; what all of them write."""
        every: set[str] = set()
        for statement in statements:
            reads: set[str] = set()
            writes: set[str] = set()
            inside = _NONE
            if isinstance(statement, ast.If | ast.While):
                _note(statement.test, reads, writes)
                loops = in_loop or isinstance(statement, ast.While)
                inside = self._look([*statement.body, *statement.orelse], in_loop=loops)
            elif isinstance(statement, ast.For):
                _note(statement.iter, reads, writes)
                _note(statement.target, reads, writes)
                inside = self._look(statement.body, in_loop=True)
            else:
                _note(statement, reads, writes)
                if isinstance(statement, ast.AugAssign):
                    reads |= writes
                elif isinstance(statement, ast.AnnAssign):
                    self._annotated |= writes
                elif isinstance(statement, ast.Return):
                    self._values += statement.value is not None
                    self._returns_in_loop |= in_loop
            self._counts.update(writes)
            self._reads[statement] = frozenset(reads)
            self._writes[statement] = inside | writes
            every |= self._writes[statement]
        return frozenset(every)

    def _written(self, statements: Sequence[ast.stmt]) -> Names:
        return _NONE.union(*[self._writes[statement] for statement in statements])

    def _live(self, statements: Sequence[ast.stmt], live: Names) -> Names:
        """The names needed before some statements, of which `live` are needed behind them."""
        for statement in reversed(statements):
            self._needed[statement] = live
            reads = self._reads[statement]
            if isinstance(statement, ast.Return):
                live = reads
            elif isinstance(statement, ast.If):
                live = reads | self._live(statement.body, live) | self._live(statement.orelse, live)
            elif isinstance(statement, ast.For | ast.While):
                around, target = live | reads, _target(statement)
                again = around | (self._live(statement.body, around) - target)
                live = around | (self._live(statement.body, again) - target)
            else:
                live = (live - self._writes[statement]) | reads
        return live

    def _define(self, statements: Sequence[ast.stmt], sure: Names, perhaps: Names) -> Names | None:
        """The names that are surely there behind some statements, None where nothing comes behind them.

        sure and perhaps are those before them.
        """
        for statement in statements:
            made = self._writes[statement]
            if isinstance(statement, ast.Return):
                return None
            if isinstance(statement, ast.If):
                then = self._define(statement.body, sure, perhaps)
                otherwise = self._define(statement.orelse, sure, perhaps)
                behind = otherwise if then is None else then if otherwise is None else then & otherwise
                one_sided = self._written(statement.body) ^ self._written(statement.orelse)
                self._meet(statement, made, sure, behind or _NONE, one_sided - perhaps)
                if behind is None:
                    return None
                sure = behind
            elif isinstance(statement, ast.For | ast.While):
                inside, target = self._written(statement.body), _target(statement)
                self._define(statement.body, sure | target, perhaps | made)
                self._meet(statement, inside, sure, sure, inside - perhaps - target)
            else:
                sure |= made
            perhaps |= made
        return sure

    def _meet(self, at: ast.stmt, made: Names, before: Names, behind: Names, one_sided: Names) -> None:
        old, new = tuple(sorted(made & before)), tuple(sorted((made & behind) - before))
        partial = bool(one_sided & self._needed[at])
        if old or new or partial:
            self.meetings[at] = Meeting(old, new, partial)


def _target(loop: ast.For | ast.While) -> Names:
    """The name that counts a loop's rounds."""
    return frozenset([loop.target.id]) if isinstance(loop, ast.For) and isinstance(loop.target, ast.Name) else _NONE


def _note(node: ast.AST, reads: set[str], writes: set[str]) -> None:
    """Note the names that are read and written in a tree; what a comprehension writes is its own."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        kind = type(node)
        if kind is ast.Name:
            (reads if type(node.ctx) is ast.Load else writes).add(node.id)  # type: ignore[attr-defined]
        elif kind is ast.ListComp:
            _note(node.elt, reads, set())  # type: ignore[attr-defined]
            for generator in node.generators:  # type: ignore[attr-defined]
                _note(generator, reads, set())
        elif kind is not ast.Constant:
            for child in vars(node).values():
                if type(child) is list:
                    waiting += [part for part in child if isinstance(part, ast.AST)]
                elif isinstance(child, ast.AST) and not isinstance(child, ast.expr_context | ast.operator):
                    waiting.append(child)
