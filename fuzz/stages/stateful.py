"""Operations that make one key of several tokens, and keep tokens from step to step to do so.

What such an operation keeps is its own affair: what is right follows from all tokens of a request. What is here is the
same for all of them: when a key is due, where it goes, who sees it. Each says for itself what a key may be, and what
becomes of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from indexfuzz.checks.exact import check_bits
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.stage_names import STATEFUL_COVERS
from indexfuzz.reference.compress import Tokens
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Output, Reach, Stage, Tensors

Instead = Mapping[str, Any]
"""What a kernel does instead of what it should, by name."""

PLACES = (Output("slot_mapping", ("token",)), Output("visible", ("token",)))


@dataclass(frozen=True)
class Stateful(Stage):
    """Fills slot_mapping [T] and visible [T], and puts keys where it says.

    `requests` has all tokens of each request of the step, those of earlier steps included.
    """

    requests: tuple[Tokens, ...] = ()

    row_inputs = ()
    values = "kv"
    """What the function calls the values of a token."""

    @property
    def covers(self) -> tuple[str, ...]:
        """The nodes that it covers, in order."""
        return STATEFUL_COVERS[self.name]

    def applies(self, case: Case) -> bool:
        return case.session.node == self.name

    def tokens(self, step: Step) -> dict[str, Tensor]:
        """The tensors of a step that all of them take: its tokens, whose they are, and what is kept of earlier ones.

        The state is addressed by rings or by pages, as the implementation wants it.
        """
        addressed = "state_table" if "state_table" in step.tensors else "rings"
        names = ("scores", "bias", "query_start", "context_lens", addressed, "block_table", "state")
        filled = tuple(output.name for output in PLACES)
        return {self.values: step.tensors["kv"]} | {name: step.tensors[name] for name in (*names, *filled)}

    def nonfinite_reach(self, given: Call, *, hides_nan: bool = False) -> Reach:
        """The values of a session are finite."""
        return Reach({}, {})


WEIGHTS: dict[str, Instead] = {
    "the position bias is left out": {"bias": "none"},
    "all tokens weigh the same": {"bias": "none", "scores": "none"},
}
"""The mistakes that weighted sums are known for."""

HALVES: dict[str, Instead] = {"the group before is left out": {"halves": "own"}}
"""That which overlap is known for."""


def weighed(tokens: Tokens, bias: Tensor, instead: Instead) -> tuple[Tokens, Tensor]:
    """Tokens and bias as a kernel takes them into a sum that leaves out what it should weigh them by."""
    if instead.get("bias") == "none":
        bias = torch.zeros_like(bias)
    if instead.get("scores") == "none":
        tokens = Tokens(tokens.kv, torch.zeros_like(tokens.scores))
    return tokens, bias


def own_halves(tokens: Tokens, bias: Tensor) -> tuple[Tokens, Tensor]:
    """Tokens and bias without their part in the key of the next group."""
    width = tokens.kv.shape[1] // 2
    return Tokens(tokens.kv[:, width:], tokens.scores[:, width:]), bias[:, width:]


def tell_token(found: Finding, given: Call) -> Finding:
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


def due_keys(given: Call, ratio: int) -> list[tuple[Tensor, Tensor]]:
    """Of each request the tokens of the step with which a key is due, and which keys these are: int64 [n] each."""
    starts, contexts = given.tensors["query_start"].tolist(), given.tensors["context_lens"].tolist()
    found = []
    for start, end, context in zip(starts[:-1], starts[1:], contexts, strict=True):
        groups = torch.arange(context // ratio, (context + end - start) // ratio)
        found.append((start + (groups + 1) * ratio - 1 - context, groups))
    return found


def places_of_keys(given: Call, *, ratio: int, block_size: int) -> dict[str, Tensor]:
    """What slot_mapping and visible must be."""
    t = given.tensors
    slots, visible = torch.full_like(t["slot_mapping"], -1), torch.zeros_like(t["visible"])
    starts, contexts = t["query_start"].tolist(), t["context_lens"].tolist()
    for request, (rows, groups) in enumerate(due_keys(given, ratio)):
        start, end, context = starts[request], starts[request + 1], contexts[request]
        seen = (torch.arange(context, context + end - start) + 1) // ratio
        visible[start:end] = seen.to(visible.dtype)
        pages = t["block_table"][request, groups // block_size].long()
        slots[rows] = pages * block_size + (groups % block_size).to(pages.device)
    return {"slot_mapping": slots, "visible": visible}


def check_places(given: Call, got: Tensors, *, ratio: int, block_size: int) -> Finding | None:
    """Complain of a slot, or of how many keys a token sees: both are exact."""
    for name, want in places_of_keys(given, ratio=ratio, block_size=block_size).items():
        found = check_bits(name, got[name], want, axes=("token",), before=given.tensors[name])
        if found:
            return tell_token(found, given)
    return None
