"""Compression, RMSNorm and RoPE of keys, their quantisation and their insertion into the cache in one operation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from indexfuzz.core import stage_names
from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.core.stage_names import COMPRESS, RMS_NORM
from indexfuzz.reference import compress, fused_compress, intervals
from indexfuzz.reference.compress import Tokens
from indexfuzz.reference.intervals import Interval
from indexfuzz.stages.base import Call, Tensors
from indexfuzz.stages.inserted_keys import InsertedKeys, mistake_of_format
from indexfuzz.stages.insertion import blame_by_place
from indexfuzz.stages.k_norm import EPS
from indexfuzz.stages.operation import Mistakes, angles, mistakes_of_rope, rope_options, rotated_as
from indexfuzz.stages.stateful import HALVES, WEIGHTS, Instead, due_keys, own_halves, weighed

EITHER_OF = f"{COMPRESS} or {RMS_NORM}"
"""Whose mistake it is where what lies between these is not what it should be."""

MADE = ("ratio", "overlap", "eps", "rope_dim", "style", "placement")
"""The options that say how a key is made."""

ROUNDING: dict[str, Mistakes] = {
    "bf16": {
        "keys are normed before they are rounded to bf16": (EITHER_OF, {"summed_as": "fp32"}),
        "normed keys are kept in fp32": (RMS_NORM, {"normed_as": "fp32"}),
    },
    "fp32": {
        "keys are rounded to bf16 before they are normed": (EITHER_OF, {"summed_as": "bf16"}),
        "normed keys are rounded to bf16": (RMS_NORM, {"normed_as": "bf16"}),
    },
}
"""What is wrong with the precision between nodes, by what is promised."""


@dataclass(frozen=True)
class FusedCompress(InsertedKeys):
    """Its keys are those of `compress`, normed, and rotated by the angles of the first token of their group."""

    name = stage_names.FUSED_COMPRESS
    sources = ("compress", "fused_compress", "groups")
    touched_by = InsertedKeys.touched_by | {"norm_weight": RMS_NORM, "cos_sin_cache": stage_names.ROPE}
    takes = ("norm_weight", "cos_sin_cache")

    def options(self, case: Case) -> dict[str, Any]:
        rope = {"rope_dim": case.model.rope_dim, "style": case.rope.style, "placement": case.rope.placement}
        return {"overlap": case.session.overlap, "eps": EPS} | rope

    def make(self, tokens: Tokens, arguments: Mapping[str, Any]) -> Tensor:
        given = (arguments[name] for name in ("bias", "norm_weight", "cos_sin_cache"))
        return fused_compress.keys(tokens, *given, **{name: arguments[name] for name in MADE})

    def legal(self, given: Call, guarantees: Guarantees, instead: Instead) -> Interval:
        t, between = given.tensors, guarantees.promises.between
        due = due_keys(given, given.options["ratio"])
        summed = [self._summed(given, request, groups, instead) for request, (_, groups) in enumerate(due)]
        none = t["cos_sin_cache"].new_empty((0, len(t["norm_weight"])), dtype=torch.float64)
        x = Interval(*(torch.cat([none, *ends]) for ends in (zip(*summed, strict=True) if summed else ((), ()))))
        x = intervals.rounded(x, instead.get("summed_as", between))
        if instead.get("normed", True):
            weight, eps = instead.get("weight", t["norm_weight"]), instead.get("eps", given.options["eps"])
            x = intervals.rounded(intervals.rms_normalised(x, weight, eps), instead.get("normed_as", between))
        options = rope_options(given, guarantees, instead)
        if options["style"]:
            placed = given.with_tensors({"positions": _positions(given)})
            x = rotated_as(intervals.rotated(x, *angles(placed, instead), **options), given, guarantees, instead)
        return x

    def mistakes(self, given: Call, guarantees: Guarantees) -> Mistakes:
        """What weighted sums, RMSNorm and RoPE are known for, and the FP8 format of another GPU."""
        sums = WEIGHTS | (HALVES if given.options["overlap"] else {})
        starts, ratio = _positions(given), given.options["ratio"]
        last = len(given.tensors["cos_sin_cache"]) - 1
        weight, eps = given.tensors["norm_weight"].float(), given.options["eps"]
        dims = len(weight)
        rope = mistakes_of_rope(given.with_tensors({"positions": starts}), guarantees)
        between = guarantees.promises.between
        return {
            **{words: (COMPRESS, dict(instead)) for words, instead in sums.items()},
            "keys are not normalised": (RMS_NORM, {"normed": False}),
            "the weight is left out": (RMS_NORM, {"weight": torch.ones_like(given.tensors["norm_weight"])}),
            "eps is 1e-5": (RMS_NORM, {"eps": 1e-5}),
            "squares are summed, not averaged": (RMS_NORM, {"weight": weight / dims**0.5, "eps": eps / dims}),
            "angles are those of the last token of a group": (
                stage_names.ROPE,
                {"positions": (starts + ratio - 1).clamp_max(last)},
            ),
            "angles are those of the number of a key": (stage_names.ROPE, {"positions": starts // ratio}),
            **ROUNDING.get(between, {}),
            **rope,
            **mistake_of_format(given),
        }

    def blame(self, given: Call, got: Tensors, guarantees: Guarantees) -> str:
        keys = self.keys(given, guarantees, {})
        return blame_by_place(keys, given, got["cache"], guarantees, EITHER_OF)

    def _summed(self, given: Call, request: int, groups: Tensor, instead: Instead) -> Interval:
        tokens, bias = weighed(self.requests[request], given.tensors["bias"], instead)
        overlap = given.options["overlap"]
        if instead.get("halves") == "own":
            (tokens, bias), overlap = own_halves(tokens, bias), False
        return compress.legal_keys(tokens, bias, ratio=given.options["ratio"], overlap=overlap).rows(groups)


def _positions(given: Call) -> Tensor:
    """The first position of the group of each key that is due."""
    ratio: int = given.options["ratio"]
    groups = [groups for _, groups in due_keys(given, ratio)]
    positions = torch.cat(groups) if groups else torch.zeros(0, dtype=torch.int64)
    return positions.to(given.tensors["cos_sin_cache"].device) * ratio
