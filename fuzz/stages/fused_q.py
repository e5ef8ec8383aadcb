"""RoPE and quantisation of q in one operation."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from indexfuzz.checks.quant import Heads, LegalRows, check_folded_weights
from indexfuzz.core import stage_names
from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.core.stage_names import Q_QUANT
from indexfuzz.reference import fp8, fused, intervals, legal
from indexfuzz.reference.quant import fold
from indexfuzz.samples.poison import poison_like
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Form, Output, Reach, Tensors
from indexfuzz.stages.nonfinite import has_nonfinite, numbers, spread
from indexfuzz.stages.operation import (
    Mistakes,
    Operation,
    angles,
    fewest_wrong,
    legal_rows,
    mistakes_of_rope,
    rope_options,
    rope_or,
    rotated_as,
)
from indexfuzz.stages.verdict import Verdict, width


class FusedQ(Operation):
    """Returns q_fp8 [T,H,D] and q_weights [T,H] fp32 of q that is not rotated yet."""

    name = stage_names.FUSED_Q
    outputs = (Output("q_fp8", ("token", "head", "dim")), Output("q_weights", ("token", "head")))
    row_inputs = ("q", "weights", "positions")
    sources = ("fused", "quant")
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
        t = given.tensors
        _, num_heads, head_dim = t["q"].shape
        weights = partial(
            legal.legal_weights,
            instead.get("weights", t["weights"]),
            num_heads=num_heads,
            head_dim=head_dim,
            arithmetic=guarantees.arithmetic,
        )
        heads = Heads(fp8.codes(got["q_fp8"]), got["q_weights"])
        before = Heads(fp8.codes(poison_like(got["q_fp8"])), poison_like(got["q_weights"]))
        rows = self._legal_rows(given, guarantees, instead)
        found = check_folded_weights(heads, rows, weights, before=before)
        return Verdict((found,) if found else (), width=width(*rows.codes_under(rows.scales[..., 0])))

    def _legal_rows(self, given: Call, guarantees: Guarantees, instead: dict[str, Any]) -> LegalRows:
        """What the heads of q may be quantised to."""
        q, options = given.tensors["q"], rope_options(given, guarantees, instead)
        if options["style"]:
            x = intervals.rotated_exactly(q, *angles(given, instead), **options)
            x = rotated_as(x, given, guarantees, instead)
        else:
            x = intervals.Interval.exact(q)
        return legal_rows(x, given, guarantees)

    def mistakes(self, given: Call, guarantees: Guarantees) -> Mistakes:
        """What RoPE is known for, and heads that take the weight of another."""
        weights = given.tensors["weights"]
        return mistakes_of_rope(given, guarantees) | {
            "the weight is that of head 0": (Q_QUANT, {"weights": weights[:, :1].expand_as(weights)}),
            "the weight is that of the head before": (Q_QUANT, {"weights": weights.roll(1, 1)}),
        }

    def blame(self, given: Call, got: Tensors, guarantees: Guarantees) -> str:
        """RoPE where right scales leave wrong codes in its dims alone; the quantisation for scales and weights."""
        rows = self._legal_rows(given, guarantees, {})
        codes, heads = fp8.codes(got["q_fp8"]), given.tensors["q"].shape[1:]
        folded = fold(
            given.tensors["weights"], torch.ones_like(got["q_weights"]), num_heads=heads[0], head_dim=heads[1]
        )
        # The power of two next to what the weight was multiplied with: the scale that was used, unless there is none.
        used = torch.exp2((got["q_weights"].double() / folded).abs().log2().round()).float()
        used = torch.where(torch.isfinite(used) & (used > 0), used, rows.scales[..., 0])
        scales = torch.cat([rows.scales, used.unsqueeze(-1)], -1)
        wrong = fewest_wrong(codes, scales, rows)
        return rope_or(Q_QUANT, wrong, given) if bool(wrong.any()) else Q_QUANT

    def nonfinite_reach(self, given: Call, *, hides_nan: bool = False) -> Reach:
        """The codes of a head, and its weight."""
        q, weights = given.tensors["q"], given.tensors["weights"]
        bad = has_nonfinite(q)
        masks = {"q_fp8": spread(bad, q), "q_weights": bad | ~torch.isfinite(weights)}
        return Reach(masks, {"q": numbers(q), "weights": numbers(weights)})
