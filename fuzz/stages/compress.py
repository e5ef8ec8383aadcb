"""Compression: one key for several tokens, by an operation that keeps tokens from step to step."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.checks.between import check_between
from indexfuzz.checks.exact import check_bits
from indexfuzz.core import stage_names
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding, complaint
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.reference import compress as reference
from indexfuzz.reference.compress import Tokens
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Output, Reach, Stage, Tensors
from indexfuzz.stages.verdict import Verdict

Legal = tuple[Tensor, Tensor]
"""The smallest and the largest key, bf16."""


@dataclass(frozen=True)
class Compress(Stage):
    """Fills keys [T, D] bf16 at the tokens with which a key is due, slot_mapping [T] and visible [T].

    What is right follows from `requests`, all tokens of each request of the step, those of earlier steps included; what
    the implementation keeps in its state is its own affair.
    """

    requests: tuple[Tokens, ...] = ()

    name = stage_names.COMPRESS
    outputs = (Output("keys", ("token", "dim")), Output("slot_mapping", ("token",)), Output("visible", ("token",)))
    row_inputs = ()
    sources = ("compress",)

    def applies(self, case: Case) -> bool:
        return case.session.node == self.name

    def tensors(self, step: Step) -> dict[str, Tensor]:
        names = ("kv", "scores", "bias", "query_start", "context_lens", "rings", "block_table", "state")
        return {name: step.tensors[name] for name in (*names, *FILLED)}

    def call(self, case: Case, tensors: dict[str, Tensor]) -> Call:
        session = case.session
        options = {"ratio": session.ratio, "overlap": session.overlap, "block_size": case.cache.block_size}
        fills = {name: name for name in (*FILLED, "state")}
        return Call(tensors, options, fills=fills, undefined=frozenset(FILLED))

    def reference(self, **arguments: Any) -> None:
        """Fill the outputs from the tokens of the requests; the state stays."""
        given = Call(arguments)
        due, wanted = _due(given, arguments["ratio"]), _places(given, arguments)
        for name, value in wanted.items():
            arguments[name].copy_(value)
        for request, tokens in enumerate(self.requests):
            made = reference.keys(tokens, arguments["bias"], ratio=arguments["ratio"], overlap=arguments["overlap"])
            rows, groups = due[request]
            arguments["keys"][rows] = made[groups]

    def judge_finite(self, given: Call, got: Tensors, guarantees: Guarantees) -> Verdict:
        """Places are exact, keys are within rounding of the sum over their tokens, all other rows are as before."""
        for name, want in _places(given, given.options).items():
            found = check_bits(name, got[name], want, axes=self.axes[name], before=given.tensors[name])
            if found:
                return Verdict.of(_told(found, given))
        return Verdict.of(self._check_keys(given, got["keys"]))

    def are_both_legal(self, given: Call, output: str, one: Tensor, other: Tensor, guarantees: Guarantees) -> Tensor:
        """Keys may differ as far as two evaluations of their sums can; all else has the same bits."""
        legal = torch.zeros_like(one, dtype=torch.bool)
        for request, (rows, groups) in enumerate(_due(given, given.options["ratio"]) if output == "keys" else ()):
            low, high = self._legal(given, request, groups)
            legal[rows] = (low <= one[rows]) & (one[rows] <= high) & (low <= other[rows]) & (other[rows] <= high)
        return legal

    def _check_keys(self, given: Call, got: Tensor) -> Finding | None:
        before, due = given.tensors["keys"], _due(given, given.options["ratio"])
        others = describe.bits(got) != describe.bits(before)
        for rows, _ in due:
            others[rows] = False
        if bool(others.any()):
            index = describe.first(others)
            where = describe.place(index, self.axes["keys"])
            detail = f"{where} is no place of a key, and was written; {describe.share(others)}"
            return _told(complaint("guard-write", "keys", detail, index), given)
        for request, (rows, groups) in enumerate(due):
            names = rows.tolist()

            def check(legal: Legal, rows: Tensor = rows, names: list[int] = names) -> Finding | None:
                return check_between(
                    "keys", got[rows], *legal, axes=self.axes["keys"], before=before[rows], names=names
                )

            found = check(self._legal(given, request, groups))
            if found:
                return _told(self._blamed(found, given, request, groups, check), given)
        return None

    def _legal(self, given: Call, request: int, groups: Tensor, **instead: Any) -> Legal:
        """The legal keys of some groups of a request; with what a kernel does instead of what it should."""
        bias, tokens = instead.get("bias", given.tensors["bias"]), self.requests[request]
        tokens = Tokens(tokens.kv, instead.get("scores", tokens.scores))
        ratio, overlap = given.options["ratio"], given.options["overlap"]
        if instead.get("halves") == "own":
            width = tokens.kv.shape[1] // 2
            tokens, bias, overlap = Tokens(tokens.kv[:, width:], tokens.scores[:, width:]), bias[:, width:], False
        low, high = (
            end[groups].float().bfloat16() for end in reference.legal_keys(tokens, bias, ratio=ratio, overlap=overlap)
        )
        return low, high

    def _blamed(
        self, found: Finding, given: Call, request: int, groups: Tensor, check: Callable[[Legal], Finding | None]
    ) -> Finding:
        """The finding with the mistake that explains all keys of the request, if one does."""
        bias, tokens = given.tensors["bias"], self.requests[request]
        mistakes: dict[str, dict[str, Any]] = {
            "the position bias is left out": {"bias": torch.zeros_like(bias)},
            "all tokens weigh the same": {"bias": torch.zeros_like(bias), "scores": torch.zeros_like(tokens.scores)},
        }
        if given.options["overlap"]:
            mistakes["the group before is left out"] = {"halves": "own"}
        for words, instead in mistakes.items():
            if check(self._legal(given, request, groups, **instead)) is None:
                return replace(found, detail=f"{words}: {found.detail}")
        return found

    def nonfinite_reach(self, given: Call, *, hides_nan: bool = False) -> Reach:
        """The values of a session are finite."""
        return Reach({}, {})


FILLED = ("keys", "slot_mapping", "visible")


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
        first = max(position + 1 - ratio * (1 + given.options["overlap"]), 0)
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
