"""Compression and RMSNorm of keys in one operation, which hands them on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from indexfuzz.core import stage_names
from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Between
from indexfuzz.core.stage_names import COMPRESS, RMS_NORM
from indexfuzz.reference import compress, fused_compress, intervals
from indexfuzz.reference.compress import Tokens
from indexfuzz.reference.intervals import Interval
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call
from indexfuzz.stages.group_keys import GroupKeys
from indexfuzz.stages.k_norm import EPS
from indexfuzz.stages.stateful import WEIGHTS, Instead


@dataclass(frozen=True)
class CompressNorm(GroupKeys):
    """Its keys are those of `compress` without overlap, normed with a weight."""

    name = stage_names.COMPRESS_NORM
    sources = ("compress", "compress_norm", "groups")
    unexplained = f"{COMPRESS} or {RMS_NORM}"

    def options(self, case: Case) -> dict[str, Any]:
        return {"eps": EPS}

    def tensors(self, step: Step) -> dict[str, Tensor]:
        return super().tensors(step) | {"norm_weight": step.tensors["norm_weight"]}

    def make(self, tokens: Tokens, arguments: Mapping[str, Any]) -> Tensor:
        summed = compress.keys(tokens, arguments["bias"], ratio=arguments["ratio"], overlap=False)
        return fused_compress.rms_norm(summed, arguments["norm_weight"], eps=arguments["eps"])

    def legal(self, tokens: Tokens, bias: Tensor, given: Call, between: Between, instead: Instead) -> Interval:
        x = compress.legal_keys(tokens, bias, ratio=given.options["ratio"], overlap=False)
        if not instead.get("normed", True):
            return x
        weight = instead.get("weight", given.tensors["norm_weight"])
        x = intervals.rounded(x, instead.get("between", between))
        return intervals.rms_normalised(x, weight, instead.get("eps", given.options["eps"]))

    def mistakes(self, given: Call, between: Between) -> dict[str, Instead]:
        """What weighted sums and RMSNorm are known for, each with its node."""
        found: dict[str, Instead] = {f"{COMPRESS}: {words}": instead for words, instead in WEIGHTS.items()}
        found |= {
            f"{RMS_NORM}: keys are not normalised": {"normed": False},
            f"{RMS_NORM}: the weight is left out": {"weight": torch.ones_like(given.tensors["norm_weight"])},
            f"{RMS_NORM}: eps is 1e-5": {"eps": 1e-5},
        }
        if between == "bf16":
            found[f"{COMPRESS}: keys are normed before they are rounded to bf16"] = {"between": "fp32"}
        if between == "fp32":
            found[f"{COMPRESS}: keys are rounded to bf16 before they are normed"] = {"between": "bf16"}
        return found
