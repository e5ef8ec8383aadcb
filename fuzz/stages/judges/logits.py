"""Judges of the logits, prefill and paged."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from indexfuzz.checks import logits
from indexfuzz.core.case import Case
from indexfuzz.core.terms import Terms
from indexfuzz.reference import bounds, layout
from indexfuzz.reference.mqa_logits import exact_scores
from indexfuzz.reference.paged_mqa_logits import visible_keys
from indexfuzz.stages.judges.verdict import Tensors, Verdict

LOOSE = 2.0**-12
"""Relative error that names a mistake well enough; verdicts have proper bounds."""


class Operands(NamedTuple):
    """What logits are made of: q_fp8 [S, R, H, D], k_fp8 [S, N, D], k_scale [S, N], weights [S, R, H]."""

    q_fp8: Tensor
    k_fp8: Tensor
    k_scale: Tensor
    weights: Tensor


def prefill_logits(_case: Case, given: Tensors, got: Tensors, terms: Terms) -> Verdict:
    """Exactly the columns of each row's window are there, each within its bound."""
    limits = bounds.prefill_bounds(
        *(given[name] for name in ("q_fp8", "k_fp8", "k_scale", "weights", "ks", "ke")),
        arithmetic=terms.scoring,
        simulated_dot=terms.simulated_dot,
    )

    def operands() -> Operands:
        return Operands(*(given[name].unsqueeze(0) for name in Operands._fields))

    return _judged(limits, given, got, terms, operands, layouts={})


def paged_logits(case: Case, given: Tensors, got: Tensors, terms: Terms) -> Verdict:
    """Exactly the positions that each row sees are there, each within its bound."""
    q, columns = given["q_fp8"], case.batch.max_model_len
    concrete = layout.resolve(case.cache.layout, case.cache.block_size)

    def limits(layout_read: str) -> bounds.LogitBounds:
        return bounds.paged_bounds(
            q,
            given["cache"],
            given["weights"],
            given["context_lens"],
            given["block_table"],
            columns,
            layout=layout_read,
            arithmetic=terms.scoring,
            simulated_dot=terms.simulated_dot,
        )

    def operands() -> Operands:
        lens, table = given["context_lens"], given["block_table"]
        keys = visible_keys(q, given["cache"], lens, table, columns, layout=concrete)
        return Operands(q, keys.k_fp8, keys.k_scale, given["weights"].reshape(q.shape[:3]))

    others = [name for name in ("normal", "shuffle") if name != concrete and case.has_layout(name)]
    layouts = {other: partial(_span, limits, other) for other in others}
    return _judged(limits(concrete), given, got, terms, operands, layouts)


def _span(limits: Callable[[str], bounds.LogitBounds], name: str) -> tuple[Tensor, Tensor]:
    found = limits(name)
    return found.reference, found.bound


def _judged(
    limits: bounds.LogitBounds,
    given: Tensors,
    got: Tensors,
    terms: Terms,
    operands: Callable[[], Operands],
    layouts: Mapping[str, logits.Alternative],
) -> Verdict:
    found, ratio = logits.judge(
        "logits",
        got["logits"],
        limits.reference,
        limits.bound,
        limits.visible,
        limits.tier,
        poison=given["logits"],
        untouched=given["logits"] if terms.promises.hidden_logits == "untouched" else None,
        layouts=layouts,
        explanations={"forgets the ReLU": lambda: _without_relu(limits, operands())},
    )
    return Verdict((found,) if found else (), ratio, limits.tier)


def _without_relu(limits: bounds.LogitBounds, operands: Operands) -> tuple[Tensor, Tensor]:
    """The logits without the ReLU, fp64 like `limits`, and how near to them is near enough.

    Where no head scores below zero the ReLU does nothing, and the bound proper holds.
    """
    q, k, k_scale, weights = operands
    scores, w, scale = exact_scores(q, k), weights.double().unsqueeze(2), k_scale.double().unsqueeze(1)
    value = torch.matmul(w, scores).squeeze(2) * scale
    near = torch.matmul(w.abs(), scores.abs()).squeeze(2) * scale * LOOSE
    matters = (scores < 0).any(2)
    missing = limits.reference.shape[1] - value.shape[2]
    value, near, matters = (torch.nn.functional.pad(x.flatten(0, 1), (0, missing)) for x in (value, near, matters))
    return value, torch.where(matters, near, limits.bound)
