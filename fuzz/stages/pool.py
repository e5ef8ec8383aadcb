"""Pooling: one key for several tokens, their weighted sum or their maximum, rotated."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from indexfuzz.core import stage_names
from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Between
from indexfuzz.reference import pool as reference
from indexfuzz.reference.compress import Tokens
from indexfuzz.reference.intervals import Interval
from indexfuzz.stages.base import Call
from indexfuzz.stages.group_keys import GroupKeys
from indexfuzz.stages.stateful import WEIGHTS, Instead


class Pool(GroupKeys):
    """Its keys are pooled over the tokens of a group, in every dim for itself, and turned by the Hadamard matrix."""

    name = stage_names.POOL
    sources = ("groups", "pool")
    values = "k"

    def options(self, case: Case) -> dict[str, Any]:
        return {"pooling": case.session.pooling}

    def make(self, tokens: Tokens, arguments: Mapping[str, Any]) -> Tensor:
        ratio, pooling = arguments["ratio"], arguments["pooling"]
        return reference.keys(tokens, arguments["bias"], ratio=ratio, pooling=pooling)

    def legal(self, tokens: Tokens, bias: Tensor, given: Call, between: Between, instead: Instead) -> Interval:
        return legal_keys(tokens, bias, given.options, between, instead)

    def mistakes(self, given: Call, between: Between) -> dict[str, Instead]:
        return mistakes_of_pool(given.options["pooling"], between)


def legal_keys(
    tokens: Tokens, bias: Tensor, options: Mapping[str, Any], between: Between, instead: Instead
) -> Interval:
    """The legal keys of a request in fp32, [L // ratio, D]; with what a kernel does instead of what it should."""
    ratio, pooling = options["ratio"], instead.get("pooling", options["pooling"])
    if instead.get("rotation") == "none":
        return reference.legal_pooled(tokens, bias, ratio=ratio, pooling=pooling)
    between = instead.get("between", between)
    return reference.legal_keys(tokens, bias, ratio=ratio, pooling=pooling, between=between)


def mistakes_of_pool(pooling: str, between: Between) -> dict[str, Instead]:
    """What would be wrong with pooled keys, in words, and what a kernel would do instead."""
    other = "max" if pooling == "softmax" else "softmax"
    found: dict[str, Instead] = {
        "keys are not rotated": {"rotation": "none"},
        f"the pooling is {other}, {pooling} is asked for": {"pooling": other},
    }
    if pooling == "softmax":
        found |= WEIGHTS
    if between == "bf16":
        found["keys are rotated in fp32, before they are rounded to bf16"] = {"between": "fp32"}
    if between == "fp32":
        found["keys are rounded to bf16 before they are rotated"] = {"between": "bf16"}
    return found
