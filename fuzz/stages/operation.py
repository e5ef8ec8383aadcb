"""Operations of several nodes: an engine's kernel does at once what the indexer does step by step.

What lies between the nodes is not observed, so every node maps sets of values to sets (reference/intervals.py), and the
outputs of the last node are judged by what its own inputs may have been. Where that is wrong, the mistakes that single
nodes are known for are tried, to say which of the nodes is to blame.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.core.stage_names import COVERS, ROPE
from indexfuzz.reference.intervals import Interval, rounded
from indexfuzz.samples.regimes import dense
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Stage, Tensors
from indexfuzz.stages.nonfinite import may_be_nonfinite
from indexfuzz.stages.verdict import Verdict

Mistakes = Mapping[str, tuple[str, dict[str, Any]]]
"""What would be wrong, in words -> the node that would do it, and what it would do instead."""


class Operation(Stage):
    """An operation of the nodes `covers`, the last of which has its outputs."""

    sources = ()

    @property
    def covers(self) -> tuple[str, ...]:
        """The nodes that it covers, in order."""
        return COVERS[self.name]

    def applies(self, case: Case) -> bool:
        return case.batch.tokens > 0

    def call(self, case: Case, tensors: dict[str, Tensor]) -> Call:
        """The call with the options of RoPE and quantisation."""
        model, rope = case.model, case.rope
        options = {
            "rope_dim": model.rope_dim,
            "style": rope.style,
            "placement": rope.placement,
            "scale_fmt": model.scale_fmt,
            "fp8": model.fp8,
        }
        return Call(tensors, options)

    @abstractmethod
    def check(self, given: Call, got: Tensors, guarantees: Guarantees, **instead: Any) -> Verdict:
        """Judge the outputs; with what nodes do instead of what they should."""

    @abstractmethod
    def mistakes(self, given: Call) -> Mistakes:
        """The mistakes that nodes are known for, besides those of RoPE."""

    def judge(self, case: Case, given: Call, got: Tensors, guarantees: Guarantees) -> Verdict:
        # What NaN reaches is replaced by the reference's outputs, which round in between.
        if may_be_nonfinite(case):
            guarantees = replace(guarantees, promises=replace(guarantees.promises, between="unknown"))
        return super().judge(case, given, got, guarantees)

    def judge_finite(self, given: Call, got: Tensors, guarantees: Guarantees) -> Verdict:
        """The outputs are within what the covered nodes may make of the inputs; else one of them is blamed."""
        verdict = self.check(given, got, guarantees)
        if not verdict.findings:
            return verdict
        for words, (node, instead) in (mistakes_of_rope(given) | dict(self.mistakes(given))).items():
            if not self.check(given, got, guarantees, **instead).findings:
                return replace(verdict, findings=tuple(_blame(f, f"{node}: {words}") for f in verdict.findings))
        return verdict


def _blame(finding: Finding, words: str) -> Finding:
    return replace(finding, detail=f"{words}: {finding.detail}")


def mistakes_of_rope(given: Call) -> dict[str, tuple[str, dict[str, Any]]]:
    """The mistakes that RoPE is known for."""
    style, placement = given.options["style"], given.options["placement"]
    other_style = "interleaved" if style == "neox" else "neox"
    other_place = "last" if placement == "first" else "first"
    return {
        "nothing is rotated": (ROPE, {"style": ""}),
        f"pairs are {other_style}, {style} is asked for": (ROPE, {"style": other_style}),
        f"the {other_place} dims are rotated, the {placement} are asked for": (ROPE, {"placement": other_place}),
    }


def kept(x: Interval, guarantees: Guarantees) -> Interval:
    """What is left of values between two nodes, by what the implementation promises."""
    return rounded(x, guarantees.promises.between)


def rope_options(given: Call, instead: Mapping[str, Any]) -> dict[str, Any]:
    """The options of RoPE in a call, with some others instead."""
    return {name: instead.get(name, given.options[name]) for name in ("rope_dim", "style", "placement")}


def norm_tensors(step: Step) -> dict[str, Tensor]:
    """Weight and bias [D] fp32 of the LayerNorm of k, made where a step has none yet."""
    for name, centre in (("k_norm_weight", 1.0), ("k_norm_bias", 0.0)):
        if name not in step.tensors:
            shape = (1, step.case.model.head_dim)
            step.place(name, centre + dense("normal", step.key(name), shape, step.case.model.fp8)[0].float() / 4)
    return {name: step.tensors[name] for name in ("k_norm_weight", "k_norm_bias")}
