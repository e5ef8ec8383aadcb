"""Quantisation of q, whose scales are folded into the weights of the heads."""

from functools import partial

import torch
from torch import Tensor

from indexfuzz.checks.nonfinite import check_nonfinite_codes
from indexfuzz.checks.quant import Heads, check_folded_weights
from indexfuzz.core import stage_names
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.reference import fp8, legal
from indexfuzz.reference import quant as quant_reference
from indexfuzz.samples.poison import poison_like
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Form, Output, Reach, Stage, Tensors, Workload
from indexfuzz.stages.nonfinite import has_nonfinite, numbers, spread
from indexfuzz.stages.quantised import legal_rows
from indexfuzz.stages.verdict import Verdict
from indexfuzz.stages.workloads import TOKENS, prefill


class QQuant(Stage):
    """Returns q_fp8 [T,H,D] and q_weights [T,H] fp32: each weight times its head's scale, D^-0.5 and H^-0.5."""

    name = stage_names.Q_QUANT
    outputs = (Output("q_fp8", ("token", "head", "dim")), Output("q_weights", ("token", "head")))
    row_inputs = ("q", "weights")
    sources = ("quant",)
    reference = staticmethod(quant_reference.q_quant)
    workload = Workload(TOKENS, lambda tokens: prefill((tokens, tokens), heads=8))

    def applies(self, case: Case) -> bool:
        return case.batch.tokens > 0

    def tensors(self, step: Step) -> dict[str, Tensor]:
        return {name: step.tensors[name] for name in ("q", "weights")}

    def call(self, case: Case, tensors: dict[str, Tensor]) -> Call:
        options = {"scale_fmt": case.model.scale_fmt, "fp8": case.model.fp8}
        return Call(tensors, options, returns=("q_fp8", "q_weights"))

    def forms(self, given: Call) -> dict[str, Form]:
        dtype = fp8.FORMATS[given.options["fp8"]].dtype
        return {
            "q_fp8": (tuple(given.tensors["q"].shape), dtype),
            "q_weights": (tuple(given.tensors["weights"].shape), torch.float32),
        }

    def judge_finite(self, given: Call, got: Tensors, guarantees: Guarantees) -> Verdict:
        """Codes and folded weight of each head are explained by one legal scale."""
        q, weights = given.tensors["q"], given.tensors["weights"]
        _, num_heads, head_dim = q.shape
        legal_weights = partial(
            legal.legal_weights, weights, num_heads=num_heads, head_dim=head_dim, arithmetic=guarantees.arithmetic
        )
        before = fp8.codes(poison_like(got["q_fp8"])), poison_like(got["q_weights"])
        heads = Heads(fp8.codes(got["q_fp8"]), got["q_weights"])
        return Verdict.of(
            check_folded_weights(heads, legal_rows(q, given, guarantees), legal_weights, before=Heads(*before))
        )

    def nonfinite_reach(self, given: Call, *, hides_nan: bool = False) -> Reach:
        """The codes of a head, and its weight."""
        q, weights = given.tensors["q"], given.tensors["weights"]
        bad = has_nonfinite(q)
        masks = {"q_fp8": spread(bad, q), "q_weights": bad | ~torch.isfinite(weights)}
        return Reach(masks, {"q": numbers(q), "weights": numbers(weights)})

    def check_nonfinite(self, given: Call, got: Tensors, guarantees: Guarantees) -> Finding | None:
        q, codes = given.tensors["q"], fp8.codes(got["q_fp8"])
        return check_nonfinite_codes("q_fp8", codes, q, legal_rows(q, given, guarantees), axes=self.axes["q_fp8"])
