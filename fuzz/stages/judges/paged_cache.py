"""Judges of the paged cache: what is written into it, and what is gathered out of it."""

from functools import partial

import torch
from torch import Tensor

from indexfuzz.checks import exact
from indexfuzz.checks.cache import inserted
from indexfuzz.core.case import Case
from indexfuzz.core.terms import Terms
from indexfuzz.reference import fp8, layout, legal
from indexfuzz.reference import gather as gather_reference
from indexfuzz.stages.judges.verdict import Tensors, Verdict, verdict


def k_quant_cache(case: Case, given: Tensors, got: Tensors, terms: Terms) -> Verdict:
    """Every token with a slot is at its place under a legal scale, and no other byte of a page has changed.

    Raises ValueError where the layout is not defined for such pages.
    """
    promised = layout.resolve(case.cache.layout, case.cache.block_size)
    layout.check_defined(promised, case.cache.block_size, case.model.head_dim)
    model, slots = case.model, given["slot_mapping"].long()
    kept = slots >= 0
    k = given["k"][: len(slots)][kept]
    slots = slots[kept]
    block_size = case.cache.block_size
    return verdict(
        inserted(
            layout.pages(given["cache"]),
            layout.pages(got["cache"]),
            slots // block_size,
            slots % block_size,
            legal.legal_scales(k, scale_fmt=model.scale_fmt, fp8=model.fp8, arithmetic=terms.arithmetic),
            lambda scale: legal.legal_codes(k, scale, fp8=model.fp8, arithmetic=terms.arithmetic),
            layout=promised,
            arrangements=layout.arrangements(block_size, model.head_dim, k.device),
            fp8=fp8.FORMATS[model.fp8].dtype,
            tokens=kept.nonzero().flatten().tolist(),
        )
    )


def gather(case: Case, given: Tensors, got: Tensors, terms: Terms) -> Verdict:
    """Keys and scales are the bytes of the cache; padding holds what is promised."""
    inputs = {name: given[name] for name in ("cache", "block_table", "cu_seqlens", "token_to_seq")}
    want = {"k_fp8": given["k_fp8"].clone(), "k_scale": given["k_scale"].clone()}
    gather_reference.gather(**inputs, **want, quant_group=case.model.head_dim, layout=case.cache.layout)
    slots, is_token = gather_reference.gathered_slots(**inputs)
    if terms.promises.gather_padding != "zeros":
        source = given if terms.promises.gather_padding == "untouched" else got
        for name, tensor in want.items():
            _bytes(tensor)[~is_token] = _bytes(source[name])[~is_token]

    def read_as(name: str, other: str) -> Tensor:
        """Output `name` if the cache were arranged otherwise; `got` where that reaches beyond its end."""
        out = want[name].clone()
        codes, scales, inside = layout.read_arranged(given["cache"], slots[is_token], *arrangements[other])
        if name == "k_scale":
            out[is_token] = scales
        else:
            _bytes(out)[is_token] = torch.where(inside, codes, _bytes(got[name])[is_token])
        return out

    block_size, head_dim = case.cache.block_size, case.model.head_dim
    arrangements = layout.arrangements(block_size, head_dim, given["cache"].device)
    others = [name for name in arrangements if name != layout.resolve(case.cache.layout, block_size)]
    axes = {"k_fp8": ("token", "dim"), "k_scale": ("token",)}
    return verdict(
        *(
            exact.same_bits(
                name,
                got[name],
                want[name],
                axes=axes[name],
                poison=given[name],
                alternatives={other: partial(read_as, name, other) for other in others},
            )
            for name in ("k_fp8", "k_scale")
        )
    )


def _bytes(tensor: Tensor) -> Tensor:
    """FP8 as its codes, which can be indexed; anything else as it is."""
    return fp8.codes(tensor) if tensor.element_size() == 1 else tensor
