"""Compression: one key for several tokens, a weighted sum of them, with those of the group before or without."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from indexfuzz.core import stage_names
from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Between
from indexfuzz.reference import compress as reference
from indexfuzz.reference.compress import Tokens
from indexfuzz.reference.intervals import Interval
from indexfuzz.stages.base import Call
from indexfuzz.stages.group_keys import GroupKeys
from indexfuzz.stages.stateful import HALVES, WEIGHTS, Instead, own_halves


class Compress(GroupKeys):
    """Its keys are the sum of softmax(scores + bias) * kv over a window, in every dim for itself."""

    name = stage_names.COMPRESS
    sources = ("compress", "groups")

    def options(self, case: Case) -> dict[str, Any]:
        return {"overlap": case.session.overlap}

    def make(self, tokens: Tokens, arguments: Mapping[str, Any]) -> Tensor:
        ratio, overlap = arguments["ratio"], arguments["overlap"]
        return reference.keys(tokens, arguments["bias"], ratio=ratio, overlap=overlap)

    def legal(self, tokens: Tokens, bias: Tensor, given: Call, between: Between, instead: Instead) -> Interval:
        overlap = given.options["overlap"]
        if instead.get("halves") == "own":
            (tokens, bias), overlap = own_halves(tokens, bias), False
        return reference.legal_keys(tokens, bias, ratio=given.options["ratio"], overlap=overlap)

    def mistakes(self, given: Call, between: Between) -> dict[str, Instead]:
        return WEIGHTS | (HALVES if given.options["overlap"] else {})
