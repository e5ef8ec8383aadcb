"""Operations that make one key of several tokens, and keep tokens from step to step to do so.

What such an operation keeps is its own affair: what is right follows from all tokens of a request. What is here is the
same for all of them: when a key is due, where it goes, who sees it. Each says for itself what a key may be.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.checks.between import check_between
from indexfuzz.checks.exact import check_bits
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding, complaint
from indexfuzz.core.guarantees import Between, Guarantees
from indexfuzz.reference.compress import Tokens
from indexfuzz.reference.intervals import Interval
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Output, Reach, Stage, Tensors
from indexfuzz.stages.verdict import Verdict

Legal = tuple[Tensor, Tensor]
"""The smallest and the largest key, bf16."""

Instead = Mapping[str, Any]
"""What a kernel does instead of what it should, by name."""


@dataclass(frozen=True)
class Stateful(Stage):
    """Fills keys [T, D] bf16 at the tokens with which a key is due, slot_mapping [T] and visible [T].

    `requests` has all tokens of each request of the step, those of earlier steps included.
    """

    requests: tuple[Tokens, ...] = ()

    outputs = (Output("keys", ("token", "dim")), Output("slot_mapping", ("token",)), Output("visible", ("token",)))
    row_inputs = ()
    values = "kv"
    """What the function calls the values of a token."""

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

    def applies(self, case: Case) -> bool:
        return case.session.node == self.name

    def tensors(self, step: Step) -> dict[str, Tensor]:
        names = ("scores", "bias", "query_start", "context_lens", "rings", "block_table", "state")
        return {self.values: step.tensors["kv"]} | {name: step.tensors[name] for name in (*names, *FILLED)}

    def call(self, case: Case, tensors: dict[str, Tensor]) -> Call:
        options = {"ratio": case.session.ratio} | self.options(case) | {"block_size": case.cache.block_size}
        fills = {name: name for name in (*FILLED, "state")}
        return Call(tensors, options, fills=fills, undefined=frozenset(FILLED))

    def reference(self, **arguments: Any) -> None:
        """Fill the outputs from the tokens of the requests; the state stays."""
        given = Call(arguments)
        due, wanted = _due(given, arguments["ratio"]), _places(given, arguments)
        for name, value in wanted.items():
            arguments[name].copy_(value)
        for request, tokens in enumerate(self.requests):
            rows, groups = due[request]
            arguments["keys"][rows] = self.make(tokens, arguments)[groups]

    def judge_finite(self, given: Call, got: Tensors, guarantees: Guarantees) -> Verdict:
        """Places are exact, keys are within rounding of the sum over their tokens, all other rows are as before."""
        for name, want in _places(given, given.options).items():
            found = check_bits(name, got[name], want, axes=self.axes[name], before=given.tensors[name])
            if found:
                return Verdict.of(_told(found, given))
        return self._check_keys(given, got["keys"], guarantees.promises.between)

    def are_both_legal(self, given: Call, output: str, one: Tensor, other: Tensor, guarantees: Guarantees) -> Tensor:
        """Keys may differ as far as two evaluations of their sums can; all else has the same bits."""
        legal = torch.zeros_like(one, dtype=torch.bool)
        for request, (rows, groups) in enumerate(_due(given, given.options["ratio"]) if output == "keys" else ()):
            low, high = self._legal(given, request, groups, guarantees.promises.between, {})
            legal[rows] = (low <= one[rows]) & (one[rows] <= high) & (low <= other[rows]) & (other[rows] <= high)
        return legal

    def _check_keys(self, given: Call, got: Tensor, between: Between) -> Verdict:
        before, due = given.tensors["keys"], _due(given, given.options["ratio"])
        others = describe.bits(got) != describe.bits(before)
        for rows, _ in due:
            others[rows] = False
        if bool(others.any()):
            index = describe.first(others)
            where = describe.place(index, self.axes["keys"])
            detail = f"{where} is no place of a key, and was written; {describe.share(others)}"
            return Verdict.of(_told(complaint("guard-write", "keys", detail, index), given))
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
                words = next((words for words, instead in mistakes if check(explain(instead)) is None), "")
                found = replace(found, detail=f"{words}: {found.detail}") if words else found
                return Verdict.of(_told(found, given))
        made = torch.cat([rows for rows, _ in due]) if due else torch.zeros(0, dtype=torch.int64)
        return Verdict(width=float(open_keys[made].double().mean()) if len(made) else 0.0)

    def _check_rows(self, given: Call, got: Tensor, rows: Tensor, legal: Legal) -> Finding | None:
        """Complain of rows of keys that are not between the smallest and the largest; anything may overflow."""
        unknown = legal[0].isinf() & legal[1].isinf()
        seen, axes = torch.where(unknown, 0.0, got[rows]), self.axes["keys"]
        return check_between("keys", seen, *legal, axes=axes, before=given.tensors["keys"][rows], names=rows.tolist())

    def _legal(self, given: Call, request: int, groups: Tensor, between: Between, instead: Instead) -> Legal:
        """The legal keys of some groups of a request."""
        bias, tokens = given.tensors["bias"], self.requests[request]
        if instead.get("bias") == "none":
            bias = torch.zeros_like(bias)
        if instead.get("scores") == "none":
            tokens = Tokens(tokens.kv, torch.zeros_like(tokens.scores))
        low, high = (end[groups].float().bfloat16() for end in self.legal(tokens, bias, given, between, instead))
        return low, high

    def nonfinite_reach(self, given: Call, *, hides_nan: bool = False) -> Reach:
        """The values of a session are finite."""
        return Reach({}, {})


FILLED = ("keys", "slot_mapping", "visible")

WEIGHTS: dict[str, Instead] = {
    "the position bias is left out": {"bias": "none"},
    "all tokens weigh the same": {"bias": "none", "scores": "none"},
}
"""The mistakes that weighted sums are known for."""


def _told(found: Finding, given: Call) -> Finding:
    """The finding with the request and the position of its token, and of which tokens a key is made."""
    token = found.index[0]
    starts = given.tensors["query_start"].tolist()
    if token >= starts[-1]:
        return replace(found, detail=f"{found.detail} (row {token} is padding)")
    request = max(i for i, start in enumerate(starts[:-1]) if start <= token)
    position = int(given.tensors["context_lens"][request]) + token - starts[request]
    ratio, words = given.options["ratio"], f"token {position} of request {request} of the step"
    if (position + 1) % ratio == 0:
        first = max(position + 1 - ratio * (1 + given.options.get("overlap", False)), 0)
        words = f"{words}, with which its key {position // ratio} is due, made of tokens {first} to {position}"
    return replace(found, detail=f"{found.detail} ({words})")


def _due(given: Call, ratio: int) -> list[tuple[Tensor, Tensor]]:
    """Of each request the tokens of the step with which a key is due, and which keys these are: int64 [n] each."""
    starts, contexts = given.tensors["query_start"].tolist(), given.tensors["context_lens"].tolist()
    found = []
    for start, end, context in zip(starts[:-1], starts[1:], contexts, strict=True):
        groups = torch.arange(context // ratio, (context + end - start) // ratio)
        found.append((start + (groups + 1) * ratio - 1 - context, groups))
    return found


def _places(given: Call, options: dict[str, Any]) -> dict[str, Tensor]:
    """What slot_mapping and visible must be."""
    t, ratio, block_size = given.tensors, options["ratio"], options["block_size"]
    slots, visible = torch.full_like(t["slot_mapping"], -1), torch.zeros_like(t["visible"])
    starts, contexts = t["query_start"].tolist(), t["context_lens"].tolist()
    for request, (rows, groups) in enumerate(_due(given, ratio)):
        start, end, context = starts[request], starts[request + 1], contexts[request]
        seen = (torch.arange(context, context + end - start) + 1) // ratio
        visible[start:end] = seen.to(visible.dtype)
        slots[rows] = t["block_table"][request, groups // block_size].long() * block_size + groups % block_size
    return {"slot_mapping": slots, "visible": visible}
