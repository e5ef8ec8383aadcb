"""Stateful operations that hand keys on: one row of bf16 for each, which another operation inserts into the cache."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.checks.between import check_between
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding, complaint
from indexfuzz.core.guarantees import Between, Guarantees
from indexfuzz.reference.compress import Tokens
from indexfuzz.reference.intervals import Interval
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Output, Tensors
from indexfuzz.stages.stateful import (
    PLACES,
    Instead,
    Stateful,
    check_places,
    due_keys,
    places_of_keys,
    tell_token,
    weighed,
)
from indexfuzz.stages.verdict import Verdict

Legal = tuple[Tensor, Tensor]
"""The smallest and the largest key, bf16."""


@dataclass(frozen=True)
class GroupKeys(Stateful):
    """Fills keys [T, D] bf16 at the tokens with which a key is due, slot_mapping [T] and visible [T]."""

    outputs = (Output("keys", ("token", "dim")), *PLACES)
    unexplained = ""
    """Whose mistake it is where no known one explains a key: of an operation of several nodes."""

    @abstractmethod
    def options(self, case: Case) -> dict[str, Any]:
        """What the function is told of how keys are made, but for the ratio."""

    @abstractmethod
    def make(self, tokens: Tokens, arguments: Mapping[str, Any]) -> Tensor:
        """The keys of a request, bf16 [L // ratio, D]."""

    @abstractmethod
    def legal(self, tokens: Tokens, bias: Tensor, given: Call, between: Between, instead: Instead) -> Interval:
        """The legal keys of a request in fp32, [L // ratio, D]; with what a kernel does instead of what it should."""

    @abstractmethod
    def mistakes(self, given: Call, between: Between) -> dict[str, Instead]:
        """What would be wrong, in words, and what a kernel would do instead."""

    def tensors(self, step: Step) -> dict[str, Tensor]:
        return self.tokens(step) | {"keys": step.tensors["keys"]}

    def call(self, case: Case, tensors: dict[str, Tensor]) -> Call:
        options = {"ratio": case.session.ratio} | self.options(case) | {"block_size": case.cache.block_size}
        filled = [output.name for output in self.outputs]
        return Call(tensors, options, fills={name: name for name in (*filled, "state")}, undefined=frozenset(filled))

    def reference(self, **arguments: Any) -> None:
        """Fill the outputs from the tokens of the requests; the state stays."""
        given, ratio = Call(arguments), arguments["ratio"]
        due = due_keys(given, ratio)
        for name, value in places_of_keys(given, ratio=ratio, block_size=arguments["block_size"]).items():
            arguments[name].copy_(value)
        for request, tokens in enumerate(self.requests):
            rows, groups = due[request]
            arguments["keys"][rows] = self.make(tokens, arguments)[groups]

    def judge_finite(self, given: Call, got: Tensors, guarantees: Guarantees) -> Verdict:
        """Places are exact, keys are within rounding of the sum over their tokens, all other rows are as before."""
        options = given.options
        found = check_places(given, got, ratio=options["ratio"], block_size=options["block_size"])
        return Verdict.of(found) if found else self._check_keys(given, got["keys"], guarantees.promises.between)

    def are_both_legal(self, given: Call, output: str, one: Tensor, other: Tensor, guarantees: Guarantees) -> Tensor:
        """Keys may differ as far as two evaluations of their sums can; all else has the same bits."""
        legal = torch.zeros_like(one, dtype=torch.bool)
        for request, (rows, groups) in enumerate(due_keys(given, given.options["ratio"]) if output == "keys" else ()):
            low, high = self._legal(given, request, groups, guarantees.promises.between, {})
            legal[rows] = (low <= one[rows]) & (one[rows] <= high) & (low <= other[rows]) & (other[rows] <= high)
        return legal

    def _check_keys(self, given: Call, got: Tensor, between: Between) -> Verdict:
        before, due = given.tensors["keys"], due_keys(given, given.options["ratio"])
        others = describe.bits(got) != describe.bits(before)
        for rows, _ in due:
            others[rows] = False
        if bool(others.any()):
            index = describe.first(others)
            where = describe.place(index, self.axes["keys"])
            detail = f"{where} is no place of a key, and was written; {describe.share(others)}"
            return Verdict.of(tell_token(complaint("guard-write", "keys", detail, index), given))
        open_keys = torch.zeros(got.shape, dtype=torch.bool)
        for request, (rows, groups) in enumerate(due):
            legal = self._legal(given, request, groups, between, {})
            open_keys[rows] = (legal[0] != legal[1]).cpu()

            def check(legal: Legal, rows: Tensor = rows) -> Finding | None:
                return self._check_rows(given, got, rows, legal)

            found = check(legal)
            if found:
                explain = partial(self._legal, given, request, groups, between)
                mistakes = self.mistakes(given, between).items()
                words = next(
                    (words for words, instead in mistakes if check(explain(instead)) is None), self.unexplained
                )
                found = replace(found, detail=f"{words}: {found.detail}") if words else found
                return Verdict.of(tell_token(found, given))
        made = torch.cat([rows for rows, _ in due]) if due else torch.zeros(0, dtype=torch.int64)
        return Verdict(width=float(open_keys[made].double().mean()) if len(made) else 0.0)

    def _check_rows(self, given: Call, got: Tensor, rows: Tensor, legal: Legal) -> Finding | None:
        """Complain of rows of keys that are not between the smallest and the largest; anything may overflow."""
        unknown = legal[0].isinf() & legal[1].isinf()
        seen, axes = torch.where(unknown, 0.0, got[rows]), self.axes["keys"]
        return check_between("keys", seen, *legal, axes=axes, before=given.tensors["keys"][rows], names=rows.tolist())

    def _legal(self, given: Call, request: int, groups: Tensor, between: Between, instead: Instead) -> Legal:
        """The legal keys of some groups of a request."""
        tokens, bias = weighed(self.requests[request], given.tensors["bias"], instead)
        low, high = (end[groups].float().bfloat16() for end in self.legal(tokens, bias, given, between, instead))
        return low, high
