"""Judges of the stages that change q and k before they are stored: RoPE, and the quantisation of q."""

from functools import partial

import torch
from torch import Tensor

from indexfuzz.checks import quant
from indexfuzz.checks import rope as rope_check
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.terms import Terms
from indexfuzz.reference import fp8, legal
from indexfuzz.reference import rope as rope_reference
from indexfuzz.stages.judges.verdict import Tensors, Verdict, verdict, wrong_form


def rope(case: Case, given: Tensors, got: Tensors, _terms: Terms) -> Verdict:
    """q and k hold one of the values that some fp32 evaluation rounds to; other dims pass through."""
    wrong = wrong_form(got, q=(tuple(given["q"].shape), torch.bfloat16), k=(tuple(given["k"].shape), torch.bfloat16))
    if wrong:
        return wrong
    # The reference is one of the legal results: what equals it needs no search among the others.
    plain = rope_reference.rope(
        *(given[name] for name in ("q", "k", "positions", "cos_sin_cache")),
        rope_dim=case.model.rope_dim,
        style=case.rope.style,
        placement=case.rope.placement,
    )
    others = (
        name
        for name, value in zip(("q", "k"), plain, strict=True)
        if not bool(rope_check.member(got[name].float(), value.float().unsqueeze(0)).all())
    )
    return verdict(*(_rotated(case, given, name, got[name]) for name in others))


def _rotated(case: Case, given: Tensors, name: str, got: Tensor) -> Finding | None:
    """Judge q or k, and recognise the usual mistakes."""
    before, style, placement = given[name], case.rope.style, case.rope.placement
    rotate = partial(legal.legal_rope, before, given["positions"], given["cos_sin_cache"], rope_dim=case.model.rope_dim)
    other_style = "interleaved" if style == "neox" else "neox"
    other_place = "last" if placement == "first" else "first"
    explanations = {
        "was not rotated": lambda: before,
        f"is rotated as {other_style}, {style} is asked for": lambda: rotate(style=other_style, placement=placement)[0],
        f"has its {other_place} dims rotated, the {placement} are asked for": lambda: rotate(
            style=style, placement=other_place
        )[0],
    }
    axes = ("token", "head", "dim") if name == "q" else ("token", "dim")
    return rope_check.rotated(name, got, rotate(style=style, placement=placement), axes=axes, explanations=explanations)


def q_quant(case: Case, given: Tensors, got: Tensors, terms: Terms) -> Verdict:
    """Codes and folded weight of each head are explained by one legal scale."""
    q, weights, model = given["q"], given["weights"], case.model
    dtype = fp8.FORMATS[model.fp8].dtype
    wrong = wrong_form(got, q_fp8=(tuple(q.shape), dtype), q_weights=(tuple(weights.shape), torch.float32))
    if wrong:
        return wrong
    arithmetic = terms.arithmetic
    return verdict(
        quant.folded(
            fp8.codes(got["q_fp8"]),
            got["q_weights"],
            legal.legal_scales(q, scale_fmt=model.scale_fmt, fp8=model.fp8, arithmetic=arithmetic),
            lambda scale: legal.legal_codes(q, scale, fp8=model.fp8, arithmetic=arithmetic),
            lambda scale: legal.legal_weights(
                weights, scale, num_heads=model.num_heads, head_dim=model.head_dim, arithmetic=arithmetic
            ),
            fp8=dtype,
        )
    )
