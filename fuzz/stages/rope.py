"""RoPE: q and k are rotated by the angles of their positions."""

import torch
from torch import Tensor

from indexfuzz.checks.rope import check_rope, is_member
from indexfuzz.core import stage_names
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.reference import legal
from indexfuzz.reference import rope as rope_reference
from indexfuzz.samples.poison import poison_like
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Form, Output, Reach, Stage, Tensors
from indexfuzz.stages.nonfinite import has_nonfinite, numbers, spread
from indexfuzz.stages.verdict import Verdict


class Rope(Stage):
    """Returns q [T,H,D] and k [T,D]; in place it changes what it was given, too."""

    name = stage_names.ROPE
    outputs = (Output("q", ("token", "head", "dim")), Output("k", ("token", "dim")))
    row_inputs = ("q", "k", "positions")
    # Only RoPE in place hands on rows that are strided, which the other two files have to cope with.
    sources = ("rope", "quant", "cache")
    agreement = "candidates"
    reference = staticmethod(rope_reference.rope)

    def applies(self, case: Case) -> bool:
        return case.batch.tokens > 0

    def tensors(self, step: Step) -> dict[str, Tensor]:
        return {name: step.tensors[name] for name in ("q", "k", "positions", "cos_sin_cache")}

    def call(self, case: Case, tensors: dict[str, Tensor]) -> Call:
        rope = case.rope
        return Call(
            tensors,
            {"rope_dim": case.model.rope_dim, "style": rope.style, "placement": rope.placement, "mode": rope.mode},
            fills={"q": "q", "k": "k"} if rope.mode == "inplace" else {},
            returns=("q", "k"),
        )

    def forms(self, given: Call) -> dict[str, Form]:
        return {name: (tuple(given.tensors[name].shape), given.tensors[name].dtype) for name in given.returns}

    def judge_finite(self, given: Call, got: Tensors, guarantees: Guarantees) -> Verdict:
        """q and k hold one of the values that some fp32 evaluation rounds to; other dims pass through."""
        # The reference is one of the legal results: what equals it needs no search among the others.
        plain = given.run(self.reference)
        others = (name for name in plain if not bool(is_member(got[name], plain[name].unsqueeze(0)).all()))
        products = products_of(given, guarantees)
        return Verdict.of(*(self._check(name, given, got[name], products) for name in others))

    def _check(self, name: str, given: Call, got: Tensor, products: str) -> Finding | None:
        """Judge q or k, and recognise the usual mistakes."""
        style, placement = given.options["style"], given.options["placement"]
        other_style = "interleaved" if style == "neox" else "neox"
        other_place = "last" if placement == "first" else "first"
        explanations = {
            "was not rotated": lambda: given.tensors[name],
            f"is rotated as {other_style}, {style} is asked for": (
                lambda: _legal(given, name, products, style=other_style)[0]
            ),
            f"has its {other_place} dims rotated, the {placement} are asked for": (
                lambda: _legal(given, name, products, placement=other_place)[0]
            ),
        }
        legal_values = _legal(given, name, products)
        return check_rope(
            name, got, legal_values, axes=self.axes[name], before=poison_like(got), explanations=explanations
        )

    def are_both_legal(self, given: Call, output: str, one: Tensor, other: Tensor, guarantees: Guarantees) -> Tensor:
        legal_values = _legal(given, output, products_of(given, guarantees))
        return is_member(one, legal_values) & is_member(other, legal_values)

    def nonfinite_reach(self, given: Call, *, hides_nan: bool = False) -> Reach:
        """A row for itself."""
        rows = {name: given.tensors[name] for name in given.returns}
        masks = {name: spread(has_nonfinite(x), x) for name, x in rows.items()}
        return Reach(masks, {name: numbers(x) for name, x in rows.items()})


def products_of(given: Call, guarantees: Guarantees) -> str:
    """What RoPE rounds its products to in a call: of bf16 angles what is promised, of others fp32."""
    promised = guarantees.promises.rope_products
    return promised if given.tensors["cos_sin_cache"].dtype == torch.bfloat16 else "fp32"


def _legal(given: Call, name: str, products: str, **other: str) -> Tensor:
    """The legal results for q or k, [n, *shape], with the options of a call and some others instead."""
    options = {option: given.options[option] for option in ("rope_dim", "style", "placement")} | other
    t = given.tensors
    return legal.legal_rope(t[name], t["positions"], t["cos_sin_cache"], products=products, **options)
