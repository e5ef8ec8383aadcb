"""Pooling and rotation of keys, their quantisation and their insertion into the cache in one operation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from indexfuzz.core import stage_names
from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.core.stage_names import POOL
from indexfuzz.reference import pool as reference
from indexfuzz.reference.compress import Tokens
from indexfuzz.reference.intervals import Interval, rounded
from indexfuzz.stages.base import Call, Tensors
from indexfuzz.stages.inserted_keys import InsertedKeys, mistake_of_format
from indexfuzz.stages.insertion import insertion_or, wrong_codes
from indexfuzz.stages.operation import Mistakes
from indexfuzz.stages.pool import legal_keys, mistakes_of_pool
from indexfuzz.stages.stateful import Instead, due_keys, weighed


@dataclass(frozen=True)
class FusedPool(InsertedKeys):
    """Its keys are those of `pool`."""

    name = stage_names.FUSED_POOL
    sources = ("fused_pool", "groups", "pool")
    values = "k"

    def options(self, case: Case) -> dict[str, Any]:
        return {"pooling": case.session.pooling}

    def make(self, tokens: Tokens, arguments: Mapping[str, Any]) -> Tensor:
        ratio, pooling = arguments["ratio"], arguments["pooling"]
        return reference.keys(tokens, arguments["bias"], ratio=ratio, pooling=pooling)

    def legal(self, given: Call, guarantees: Guarantees, instead: Instead) -> Interval:
        promises, bias = guarantees.promises, given.tensors["bias"]
        none = bias.new_empty((0, bias.shape[1]), dtype=torch.float64)
        made = [Interval(none, none)]
        for tokens, (_, groups) in zip(self.requests, due_keys(given, given.options["ratio"]), strict=True):
            own = weighed(tokens, bias, instead)
            made.append(legal_keys(*own, given.options, promises.between, instead).rows(groups))
        x = Interval(*(torch.cat(ends) for ends in zip(*made, strict=True)))
        return rounded(x, instead.get("rotated_as", promises.after_rotation))

    def mistakes(self, given: Call, guarantees: Guarantees) -> Mistakes:
        """What pooling is known for, a rotated key in another precision, and the FP8 format of another GPU."""
        promises = guarantees.promises
        pooled = mistakes_of_pool(given.options["pooling"], promises.between)
        rounding: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
            "bf16": {"rotated keys are kept in fp32": (POOL, {"rotated_as": "fp32"})},
            "fp32": {"rotated keys are rounded to bf16": (POOL, {"rotated_as": "bf16"})},
        }
        return {
            **{words: (POOL, dict(instead)) for words, instead in pooled.items()},
            **rounding.get(promises.after_rotation, {}),
            **mistake_of_format(given),
        }

    def blame(self, given: Call, got: Tensors, guarantees: Guarantees) -> str:
        keys, cache = self.keys(given, guarantees, {}), got["cache"]
        wrong = wrong_codes(keys, given, cache, guarantees)
        return insertion_or(POOL, keys, given, cache, guarantees) if wrong is None else POOL
