"""LayerNorm or RMSNorm of k, before RoPE."""

from typing import Any

import torch
from torch import Tensor

from indexfuzz.checks.interval import check_between
from indexfuzz.core import stage_names
from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.core.stage_names import K_NORM
from indexfuzz.reference import fused, intervals
from indexfuzz.samples.poison import poison_like
from indexfuzz.samples.regimes import dense
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Form, Output, Reach, Tensors
from indexfuzz.stages.nonfinite import has_nonfinite, numbers, spread
from indexfuzz.stages.operation import Mistakes, Operation
from indexfuzz.stages.verdict import Verdict, open_share

EPS = 1e-6
"""Of the LayerNorm in DeepSeek-V3.2 and GLM-5."""

OFFSET = 250.0
"""Mean of rows that differ by no more than a few steps of bf16."""


class KNorm(Operation):
    """Returns k [T,D] of k that is not normed yet."""

    name = stage_names.K_NORM
    outputs = (Output("k", ("token", "dim")),)
    row_inputs = ("k",)
    sources = ("norm",)
    reference = staticmethod(fused.k_norm)

    def tensors(self, step: Step) -> dict[str, Tensor]:
        return norm_tensors(step)

    def call(self, case: Case, tensors: dict[str, Tensor]) -> Call:
        return Call(tensors, {"eps": EPS, **norm_of(case)}, returns=("k",))

    def forms(self, given: Call) -> dict[str, Form]:
        return {"k": (tuple(given.tensors["k"].shape), given.tensors["k"].dtype)}

    def check(self, given: Call, got: Tensors, guarantees: Guarantees, **instead: Any) -> Verdict:
        k, got_k = given.tensors["k"], got["k"]
        x = intervals.rounded(normalise(given, k, instead), "bf16", k.dtype)
        found = check_between("k", got_k, *x, axes=self.axes["k"], before=poison_like(got_k))
        return Verdict((found,) if found else (), width=open_share(x))

    def mistakes(self, given: Call, guarantees: Guarantees) -> Mistakes:
        return mistakes_of_norm(given)

    def blame(self, given: Call, got: Tensors, guarantees: Guarantees) -> str:
        return K_NORM

    def nonfinite_reach(self, given: Call, *, hides_nan: bool = False) -> Reach:
        """A row for itself."""
        k = given.tensors["k"]
        return Reach({"k": spread(has_nonfinite(k), k)}, {"k": numbers(k)})


def norm_of(case: Case) -> dict[str, str]:
    """The option that names the norm; kernels that know LayerNorm alone are not told of it."""
    return {} if case.model.k_norm == "layer" else {"norm": case.model.k_norm}


def norm_tensors(step: Step) -> dict[str, Tensor]:
    """k [T, D] before its LayerNorm, and weight and bias [D] fp32, made where a step has none yet.

    One case in eight has rows whose mean is large beside their spread, one in four no bias, so that rows of zeros stay
    zeros.
    """
    case, rare = step.case, {name: step.key(f"rare {name}") for name in ("k", "k_norm_bias")}
    if "k_norm_weight" not in step.tensors:
        for name, centre in (("k_norm_weight", 1.0), ("k_norm_bias", 0.0)):
            value = centre + dense("normal", step.key(name), (1, case.model.head_dim), case.model.fp8)[0].float() / 4
            value = torch.zeros_like(value) if rare.get(name, 1) % 4 == 0 else value
            step.place(name, value if case.memory.norm_weights == "fp32" else value.bfloat16())
        if rare["k"] % 8 == 0:
            k = step.tensors["k"]
            step.place("raw_k", (k.float() + OFFSET).to(k.dtype), row_pad=case.row_pad("k", *k.shape))
    k = step.tensors.get("raw_k", step.tensors["k"])
    return {"k": k} | {name: step.tensors[name] for name in ("k_norm_weight", "k_norm_bias")}


def normalise(given: Call, k: Tensor, instead: dict[str, Any]) -> intervals.Interval:
    """What the norm in fp32 may make of rows of k [n, D], with the weights of a call or with others instead."""
    if not instead.get("normed", True):
        return intervals.Interval.exact(k)
    t = given.tensors
    weight, bias = instead.get("weight", t["k_norm_weight"]), instead.get("bias", t["k_norm_bias"])
    eps = instead.get("eps", given.options["eps"])
    if instead.get("norm", given.options.get("norm")) == "rms":
        x = intervals.rms_normalised(intervals.Interval.exact(k), weight, eps)
        return intervals.Interval(*(end + bias.double() for end in x)) if instead.get("biased") else x
    return intervals.normalised(k, weight, bias, eps)


def mistakes_of_norm(given: Call) -> Mistakes:
    """The mistakes that LayerNorm and RMSNorm are known for."""
    weight, bias = given.tensors["k_norm_weight"], given.tensors["k_norm_bias"]
    none = torch.zeros_like(bias)
    is_rms = given.options.get("norm") == "rms"
    of_rms: dict[str, tuple[str, dict[str, Any]]] = {
        "LayerNorm is made, RMSNorm is asked for": (K_NORM, {"norm": "layer"}),
        "the mean is subtracted, RMSNorm is asked for": (K_NORM, {"norm": "layer", "bias": none}),
        "a bias is added, RMSNorm has none": (K_NORM, {"biased": True}),
    }
    of_layers: dict[str, tuple[str, dict[str, Any]]] = {
        "RMSNorm is made, LayerNorm is asked for": (K_NORM, {"norm": "rms"}),
        "the bias is left out": (K_NORM, {"bias": none}),
    }
    return {
        "k is not normalised": (K_NORM, {"normed": False}),
        **(of_rms if is_rms else of_layers),
        "the weight is left out": (K_NORM, {"weight": torch.ones_like(weight)}),
        "eps is 1e-5": (K_NORM, {"eps": 1e-5}),
    }
