"""Judges: one for each stage. From the inputs that a stage was given to what it may have produced, and the checks.

The legal sets and bounds come from the reference; the comparison, and the words, from the checks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from indexfuzz.case import Case
from indexfuzz.checks import exact, logits, quant, shape
from indexfuzz.checks import rope as rope_check
from indexfuzz.checks import topk as topk_check
from indexfuzz.checks.cache import inserted
from indexfuzz.checks.mismatch import Mismatch
from indexfuzz.finding import Finding
from indexfuzz.reference import bounds, fp8, layout, legal
from indexfuzz.reference import gather as gather_reference
from indexfuzz.terms import Terms

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Verdict:
    """What a judge says: mismatches, and for bounded outputs the largest error as a share of its bound."""

    mismatches: tuple[Mismatch, ...] = ()
    ratio: float = 0.0
    tier: str = ""

    def findings(self, stage: str) -> list[Finding]:
        """The mismatches as findings about a stage."""
        return [
            Finding(stage, m.kind, m.output, m.detail, m.feature, m.index, m.got, m.want, m.tier)
            for m in self.mismatches
        ]


def _verdict(*found: Mismatch | None) -> Verdict:
    return Verdict(tuple(mismatch for mismatch in found if mismatch))


def _wrong_form(got: Tensors, **forms: tuple[tuple[int, ...], torch.dtype]) -> Verdict | None:
    """A verdict when returned tensors have not the shape and dtype that later stages need."""
    found = [shape.form(name, got[name], shape=size, dtype=dtype) for name, (size, dtype) in forms.items()]
    return _verdict(*found) if any(found) else None


def rope(case: Case, given: Tensors, got: Tensors, _terms: Terms) -> Verdict:
    """q and k hold one of the values that some fp32 evaluation rounds to; other dims pass through."""
    wrong = _wrong_form(got, q=(tuple(given["q"].shape), torch.bfloat16), k=(tuple(given["k"].shape), torch.bfloat16))
    if wrong:
        return wrong
    return _verdict(*(_rotated(case, given, name, got[name]) for name in ("q", "k")))


def _rotated(case: Case, given: Tensors, name: str, got: Tensor) -> Mismatch | None:
    """Judge q or k, and recognise the usual mistakes."""
    before, style, placement = given[name], case.rope.style, case.rope.placement
    rotate = partial(
        legal.legal_rope, before, given["positions"], given["cos_sin_cache"], rope_dim=case.model.rope_dim
    )
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
    wrong = _wrong_form(
        got, q_fp8=(tuple(q.shape), dtype), q_weights=(tuple(weights.shape), torch.float32)
    )
    if wrong:
        return wrong
    arithmetic = terms.arithmetic
    return _verdict(
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


def k_quant_cache(case: Case, given: Tensors, got: Tensors, terms: Terms) -> Verdict:
    """Every token with a slot is at its place under a legal scale, and no other byte of a page has changed."""
    model, slots = case.model, given["slot_mapping"].long()
    kept = slots >= 0
    k = given["k"][: len(slots)][kept]
    slots = slots[kept]
    block_size = case.cache.block_size
    return _verdict(
        inserted(
            layout.pages(given["cache"]),
            layout.pages(got["cache"]),
            slots // block_size,
            slots % block_size,
            legal.legal_scales(k, scale_fmt=model.scale_fmt, fp8=model.fp8, arithmetic=terms.arithmetic),
            lambda scale: legal.legal_codes(k, scale, fp8=model.fp8, arithmetic=terms.arithmetic),
            layout=layout.resolve(case.cache.layout, block_size),
            arrangements=layout.arrangements(block_size, model.head_dim, k.device),
            fp8=fp8.FORMATS[model.fp8].dtype,
            tokens=kept.nonzero().flatten().tolist(),
        )
    )


def gather(case: Case, given: Tensors, got: Tensors, terms: Terms) -> Verdict:
    """Keys and scales are the bytes of the cache; padding holds what is promised."""
    inputs = {name: given[name] for name in ("cache", "block_table", "cu_seqlens", "token_to_seq")}

    def read(concrete: str) -> Tensors:
        out = {"k_fp8": given["k_fp8"].clone(), "k_scale": given["k_scale"].clone()}
        gather_reference.gather(**inputs, **out, quant_group=case.model.head_dim, layout=concrete)
        if terms.promises.gather_padding != "zeros":
            _, is_token = gather_reference.gathered_slots(**inputs)
            source = given if terms.promises.gather_padding == "untouched" else got
            out = {name: _where_rows(is_token, tensor, source[name]) for name, tensor in out.items()}
        return out

    concrete = layout.resolve(case.cache.layout, case.cache.block_size)
    want = read(concrete)
    others = [name for name in ("normal", "shuffle") if name != concrete and _exists(name, case)]
    axes = {"k_fp8": ("token", "dim"), "k_scale": ("token",)}
    return _verdict(*(
        exact.same_bits(
            name, got[name], want[name], axes=axes[name], poison=given[name],
            alternatives={other: partial(lambda o, n: read(o)[n], other, name) for other in others},
        )
        for name in ("k_fp8", "k_scale")
    ))  # fmt: skip


def _where_rows(keep: Tensor, rows: Tensor, otherwise: Tensor) -> Tensor:
    chosen = rows.clone()
    chosen[~keep] = otherwise[~keep]
    return chosen


def _exists(concrete: str, case: Case) -> bool:
    return concrete == "normal" or not (case.cache.block_size % layout.TILE or case.model.head_dim % layout.TILE)


def prefill_logits(_case: Case, given: Tensors, got: Tensors, terms: Terms) -> Verdict:
    """Exactly the columns of each row's window are there, each within its bound."""
    limits = bounds.prefill_bounds(
        *(given[name] for name in ("q_fp8", "k_fp8", "k_scale", "weights", "ks", "ke")),
        arithmetic=terms.arithmetic,
        simulated_dot=terms.simulated_dot,
    )
    return _judge_logits(limits, given, got, terms)


def paged_logits(case: Case, given: Tensors, got: Tensors, terms: Terms) -> Verdict:
    """Exactly the positions that each row sees are there, each within its bound."""
    limits = bounds.paged_bounds(
        given["q_fp8"],
        given["cache"],
        given["weights"],
        given["context_lens"],
        given["block_table"],
        case.batch.max_model_len,
        layout=case.cache.layout,
        arithmetic=terms.arithmetic,
        simulated_dot=terms.simulated_dot,
    )
    return _judge_logits(limits, given, got, terms)


def _judge_logits(limits: bounds.LogitBounds, given: Tensors, got: Tensors, terms: Terms) -> Verdict:
    found, ratio = logits.judge(
        "logits",
        got["logits"],
        limits.reference,
        limits.bound,
        limits.visible,
        limits.tier,
        poison=given["logits"],
        untouched=given["logits"] if terms.promises.hidden_logits == "untouched" else None,
    )
    return Verdict((found,) if found else (), ratio, limits.tier)


def topk(case: Case, given: Tensors, got: Tensors, _terms: Terms) -> Verdict:
    """The columns are the largest of the logits that were given; ties are free."""
    (name, indices), = got.items()
    rows = len(given["logits"])
    wrong = _wrong_form(got, **{name: ((rows, case.model.index_topk), torch.int32)})
    return wrong or _verdict(topk_check.selected(name, indices, given["logits"]))
