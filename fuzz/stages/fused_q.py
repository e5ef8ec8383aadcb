"""RoPE and quantisation of q in one operation."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from indexfuzz.checks.quant import Heads, LegalRows, check_folded_weights
from indexfuzz.core import stage_names
from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.reference import fp8, fused, intervals, legal
from indexfuzz.samples.buffers import poison_like
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Form, Output, Reach, Tensors
from indexfuzz.stages.nonfinite import has_nonfinite, numbers, spread
from indexfuzz.stages.operation import Mistakes, Operation, kept, rope_options
from indexfuzz.stages.verdict import Verdict, width


class FusedQ(Operation):
    """Returns q_fp8 [T,H,D] and q_weights [T,H] fp32 of q that is not rotated yet."""

    name = stage_names.FUSED_Q
    outputs = (Output("q_fp8", ("token", "head", "dim")), Output("q_weights", ("token", "head")))
    row_inputs = ("q", "weights", "positions")
    reference = staticmethod(fused.fused_q)

    def tensors(self, step: Step) -> dict[str, Tensor]:
        return {name: step.tensors[name] for name in ("q", "weights", "positions", "cos_sin_cache")}

    def call(self, case: Case, tensors: dict[str, Tensor]) -> Call:
        return Call(tensors, super().call(case, tensors).options, returns=("q_fp8", "q_weights"))

    def forms(self, given: Call) -> dict[str, Form]:
        dtype = fp8.FORMATS[given.options["fp8"]].dtype
        shapes = {name: tuple(given.tensors[name].shape) for name in ("q", "weights")}
        return {"q_fp8": (shapes["q"], dtype), "q_weights": (shapes["weights"], torch.float32)}

    def check(self, given: Call, got: Tensors, guarantees: Guarantees, **instead: Any) -> Verdict:
        t, form = given.tensors, given.options["fp8"]
        _, num_heads, head_dim = t["q"].shape
        options = rope_options(given, instead)
        if options["style"]:
            x = kept(intervals.rotated_exactly(t["q"], t["positions"], t["cos_sin_cache"], **options), guarantees)
        else:
            x = intervals.Interval.exact(t["q"])
        scales = intervals.scales_between(x, fp8=form, arithmetic=guarantees.arithmetic)
        codes = partial(intervals.codes_between, x, fp8=form, arithmetic=guarantees.arithmetic)
        weights = partial(
            legal.legal_weights, t["weights"], num_heads=num_heads, head_dim=head_dim, arithmetic=guarantees.arithmetic
        )
        heads = Heads(fp8.codes(got["q_fp8"]), got["q_weights"])
        before = Heads(fp8.codes(poison_like(got["q_fp8"])), poison_like(got["q_weights"]))
        legal_rows = LegalRows(scales, codes, fp8.FORMATS[form].dtype)
        found = check_folded_weights(heads, legal_rows, weights, before=before)
        return Verdict((found,) if found else (), width=width(*codes(scales[..., 0])))

    def mistakes(self, given: Call) -> Mistakes:
        return {}

    def nonfinite_reach(self, given: Call, *, hides_nan: bool = False) -> Reach:
        """The codes of a head, and its weight."""
        q, weights = given.tensors["q"], given.tensors["weights"]
        bad = has_nonfinite(q)
        masks = {"q_fp8": spread(bad, q), "q_weights": bad | ~torch.isfinite(weights)}
        return Reach(masks, {"q": numbers(q), "weights": numbers(weights)})
