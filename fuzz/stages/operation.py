"""Operations beside the stages, most of several nodes: an engine's kernel does at once what the indexer does in steps.

What lies between the nodes is not observed, so every node maps sets of values to sets (reference/intervals.py), and the
outputs of the last node are judged by what its own inputs may have been. Where that is wrong, the mistakes that single
nodes are known for are tried, to say which of the nodes is to blame; where none explains it, the place of what is wrong
tells: dims that RoPE does not turn, all dims, or bytes that belong to no token.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from indexfuzz.checks.quant import LegalRows, find_wrong_codes
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.core.stage_names import COVERS, ROPE, STATEFUL_COVERS
from indexfuzz.reference.intervals import Interval, codes_between, rounded, scales_between
from indexfuzz.stages.base import Call, Stage, Tensors
from indexfuzz.stages.nonfinite import may_be_nonfinite
from indexfuzz.stages.quantised import code_dtype, number_format
from indexfuzz.stages.rope import products_of
from indexfuzz.stages.verdict import Verdict

OF_PLACES = frozenset({"layout-mismatch", "unwritten", "guard-write"})
"""Kinds of findings that blame the last node, which writes."""

MANY = 4
"""RoPE is to blame where more than one in so many of the dims are wrong that it turns."""

Mistakes = Mapping[str, tuple[str, dict[str, Any]]]
"""What would be wrong, in words -> the node that would do it, and what it would do instead."""


class Operation(Stage):
    """An operation of the nodes `covers`, the last of which has its outputs.

    `touched_by` says of tensors that one node alone reads or fills which one that is.
    """

    touched_by: ClassVar[Mapping[str, str]] = {}

    @property
    def covers(self) -> tuple[str, ...]:
        """The nodes that it covers, in order."""
        return (COVERS | STATEFUL_COVERS)[self.name]

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
    def mistakes(self, given: Call, guarantees: Guarantees) -> Mistakes:
        """The mistakes that nodes are known for."""

    @abstractmethod
    def blame(self, given: Call, got: Tensors, guarantees: Guarantees) -> str:
        """The node, or nodes, that wrong outputs point to by where they are wrong."""

    def judge(self, case: Case, given: Call, got: Tensors, guarantees: Guarantees) -> Verdict:
        # What NaN reaches is replaced by the reference's outputs, which round in between and multiply in fp32.
        if may_be_nonfinite(case):
            free = replace(guarantees.promises, between="unknown", rotated=None, rope_products="unknown")
            guarantees = replace(guarantees, promises=free)
        return super().judge(case, given, got, guarantees)

    def judge_finite(self, given: Call, got: Tensors, guarantees: Guarantees) -> Verdict:
        """The outputs are within what the covered nodes may make of the inputs; else one of them is blamed."""
        verdict = self.check(given, got, guarantees)
        if not verdict.findings:
            return verdict
        words = self._explain(verdict.findings[0], given, got, guarantees)
        return replace(verdict, findings=tuple(_blame(found, words) for found in verdict.findings))

    def _explain(self, found: Finding, given: Call, got: Tensors, guarantees: Guarantees) -> str:
        """Which node is to blame, and for which mistake if it is a known one; nodes, where one of each would do it."""
        if found.kind in OF_PLACES:
            return self.covers[-1]
        explained, possible = dict[str, str](), list[str]()
        for words, (node, instead) in self.mistakes(given, guarantees).items():
            if node in explained or self.check(given, got, guarantees, **instead).findings:
                continue
            if self._is_told(given, guarantees, instead):
                explained[node] = words
            else:
                possible.append(node)
        if explained:
            return f"{_either(explained, self.covers)}: {', or '.join(explained.values())}"
        nodes, colon, words = self.blame(given, got, guarantees).partition(":")
        return _either([nodes, *possible], self.covers) + colon + words

    def _is_told(self, given: Call, guarantees: Guarantees, instead: Mapping[str, Any]) -> bool:
        """Whether a case tells a mistake from what is right: one that allows the right outputs, too, explains nothing.

        A value that lies on a tie is such a case, if the mistake is one of rounding.
        """
        right = given.copy().run(self.reference)
        is_right = not self.check(given, right, guarantees).findings
        return not is_right or bool(self.check(given, right, guarantees, **instead).findings)

    def name_node(self, found: Finding) -> Finding:
        """What a device saw, with the node to blame, where one node alone has to do with the tensor."""
        return _blame(found, self.touched_by[found.tensor]) if found.tensor in self.touched_by else found


def _either(words: Iterable[str], covers: Sequence[str]) -> str:
    """The nodes that are named, in order."""
    return " or ".join(sorted(set(" or ".join(words).split(" or ")), key=covers.index))


def _blame(finding: Finding, words: str) -> Finding:
    return replace(finding, detail=f"{words}: {finding.detail}")


def mistakes_of_rope(given: Call, guarantees: Guarantees) -> dict[str, tuple[str, dict[str, Any]]]:
    """The mistakes that RoPE is known for."""
    positions, table = given.tensors["positions"], given.tensors["cos_sin_cache"]
    half, last = table.shape[1] // 2, len(table) - 1
    backwards = torch.cat([table[:, :half], -table[:, half:]], 1)
    rounding: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
        "bf16": {"its result is kept in fp32": (ROPE, {"rotated_as": "fp32"})},
        "fp32": {"its result is rounded to bf16": (ROPE, {"rotated_as": "bf16"})},
    }
    products = {
        "bf16": {"its products are kept in fp32": (ROPE, {"products": "fp32"})},
        "fp32": {"its products are rounded to bf16": (ROPE, {"products": "bf16"})},
    }
    if stored_as(given) != torch.bfloat16:
        rounding["bf16"] |= {"its result is rounded to bf16": (ROPE, {"stored": torch.bfloat16})}
    style, placement = given.options["style"], given.options["placement"]
    other_style = "interleaved" if style == "neox" else "neox"
    other_place = "last" if placement == "first" else "first"
    return {
        "nothing is rotated": (ROPE, {"style": ""}),
        f"pairs are {other_style}, {style} is asked for": (ROPE, {"style": other_style}),
        f"the {other_place} dims are rotated, the {placement} are asked for": (ROPE, {"placement": other_place}),
        "pairs are turned the other way": (ROPE, {"cos_sin_cache": backwards}),
        "angles are those of the position after": (ROPE, {"positions": (positions + 1).clamp_max(last)}),
        "angles are those of the position before": (ROPE, {"positions": (positions - 1).clamp_min(0)}),
        "angles are those of position 0": (ROPE, {"positions": torch.zeros_like(positions)}),
        **rounding.get(guarantees.promises.after_rotation, {}),
        **products.get(products_of(given, guarantees), {}),
    }


def rope_or(others: str, wrong: Tensor, given: Call) -> str:
    """Others where dims are wrong, bool [..., D], that RoPE leaves alone; RoPE where many are that it turns; or either.

    A small error of the others shows in few elements, which may all be turned.
    """
    rope_dim, head_dim = given.options["rope_dim"], wrong.shape[-1]
    start = 0 if given.options["placement"] == "first" else head_dim - rope_dim
    beside = torch.cat([wrong[..., :start], wrong[..., start + rope_dim :]], -1)
    if bool(beside.any()):
        return others
    rows = wrong[wrong.any(-1)]
    return ROPE if rope_dim < head_dim and rows.sum() * MANY > len(rows) * rope_dim else f"{others} or {ROPE}"


def fewest_wrong(codes: Tensor, scales: Tensor, legal: LegalRows) -> Tensor:
    """Which codes uint8 [..., D] are wrong, under that of the scales fp32 [..., n] which leaves fewest of a row."""
    wrong = torch.stack(
        [find_wrong_codes(codes, *legal.codes_under(scale), legal.fp8) for scale in scales.unbind(-1)], -2
    )
    best = wrong.sum(-1).argmin(-1)
    return wrong.gather(-2, best[..., None, None].expand(*best.shape, 1, codes.shape[-1])).squeeze(-2)


def stored_as(given: Call) -> torch.dtype:
    """The dtype in which single steps would store q or k: that of what they are given, or bf16 for keys of groups."""
    dtypes = [given.tensors[name].dtype for name in ("q", "k") if name in given.tensors]
    return dtypes[0] if dtypes else torch.bfloat16


def rotated_as(x: Interval, given: Call, guarantees: Guarantees, instead: Mapping[str, Any]) -> Interval:
    """What is left of values behind RoPE, by what the implementation promises; or with something else instead."""
    promised = instead.get("rotated_as", guarantees.promises.after_rotation)
    return rounded(x, promised, instead.get("stored", stored_as(given)))


def rope_options(given: Call, guarantees: Guarantees, instead: Mapping[str, Any]) -> dict[str, Any]:
    """The options of RoPE in a call, with some others instead; no style if nothing is rotated."""
    options = {name: instead.get(name, given.options[name]) for name in ("rope_dim", "style", "placement")}
    return options | {"products": instead.get("products", products_of(given, guarantees))}


def angles(given: Call, instead: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Positions and the table of angles of a call, or others instead."""
    return tuple(instead.get(name, given.tensors[name]) for name in ("positions", "cos_sin_cache"))


def legal_rows(x: Interval, given: Call, guarantees: Guarantees, *, nudges: Sequence[float] = ()) -> LegalRows:
    """What rows of such values may be quantised to; their codes those of the values times any of some factors."""
    form = number_format(given)
    arithmetic = guarantees.quantising_in(form)
    nudged = x
    if nudges:
        lows, highs = (torch.stack([end * factor for factor in nudges]) for end in x)
        nudged = Interval(lows.amin(0), highs.amax(0))
    codes = partial(codes_between, nudged, fp8=form, arithmetic=arithmetic)
    return LegalRows(scales_between(x, fp8=form, arithmetic=arithmetic), codes, code_dtype(form))
