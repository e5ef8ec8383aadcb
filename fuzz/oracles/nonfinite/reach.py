"""How far NaN and infinities in the inputs of a stage may reach into its outputs."""

from collections.abc import Mapping

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.oracles.determined import visible
from indexfuzz.reference import fp8, layout
from indexfuzz.reference.paged_mqa_logits import visible_keys

Tensors = Mapping[str, Tensor]

PLAIN_CODE = 0x40
"""A number for a NaN code: 2 in e4m3fn, 1 in e4m3fnuz."""

_INFINITIES = (float("inf"), float("-inf"))


def replaced(mask: Tensor | None, chosen: Tensor, otherwise: Tensor) -> Tensor:
    """``chosen`` where the mask says so; ``otherwise`` elsewhere, without a mask, and where their forms differ."""
    if mask is None or chosen.shape != otherwise.shape or chosen.dtype != otherwise.dtype:
        return otherwise
    first, second = (x.view(torch.uint8) if x.element_size() == 1 else x for x in (chosen, otherwise))
    return torch.where(mask, first, second).view(otherwise.dtype)


def reached(
    stage: str, case: Case, given: Tensors, *, hides_nan: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Which elements of a stage's outputs NaN and infinities of its inputs may change, and those inputs without them.

    Masks by output, bool, of the output's shape; inputs by argument. With ``hides_nan``, a dot product with a NaN is 0:
    then NaN codes are replaced by vectors of zeros and reach nothing.
    """
    match stage:
        case "rope":
            names = ("q", "k")
            masks = {name: _rows(tainted(given[name]), given[name]) for name in names}
            return masks, {name: _numbers(given[name]) for name in names}
        case "q_quant":
            bad = tainted(given["q"])
            weights = given["weights"]
            return (
                {"q_fp8": _rows(bad, given["q"]), "q_weights": bad | ~torch.isfinite(weights)},
                {"q": _numbers(given["q"]), "weights": _numbers(weights)},
            )
        case "k_quant_cache":
            return {"cache": _bytes_of(tainted(given["k"]), case, given)}, {"k": _numbers(given["k"])}
        case "prefill_logits" | "paged_logits":
            return _reached_logits(stage, case, given, hides_nan=hides_nan)
        case "topk":
            logits = given["logits"]
            rows = torch.isnan(logits).any(1, keepdim=True).expand(-1, case.model.index_topk)
            return dict.fromkeys(("prefill_topk", "paged_topk"), rows), {"logits": logits.nan_to_num(0.0, *_INFINITIES)}
        case _:
            return {}, {}


def tainted(x: Tensor) -> Tensor:
    """Rows of the last dim that hold something else than numbers."""
    return ~torch.isfinite(x.float()).all(-1)


def _rows(bad: Tensor, like: Tensor) -> Tensor:
    return bad.unsqueeze(-1).expand(like.shape)


def _numbers(x: Tensor) -> Tensor:
    """1 for everything that is no number; strides as they were, so that the very same binary runs."""
    out = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
    return out.copy_(torch.where(torch.isfinite(x), x, 1.0))


def _bytes_of(bad: Tensor, case: Case, given: Tensors) -> Tensor:
    """The bytes of the cache that hold the tokens ``bad`` [T]: bool, of the cache's shape."""
    cache, slots = given["cache"], given["slot_mapping"].long()
    slots = slots[bad[: len(slots)] & (slots >= 0)]
    mask = torch.zeros(cache.shape, dtype=torch.uint8, device=cache.device)
    codes = torch.ones((len(slots), cache.shape[2] - layout.SCALE_BYTES), dtype=torch.uint8, device=cache.device)
    scales = torch.full((len(slots),), 0x01010101, dtype=torch.int32, device=cache.device).view(torch.float32)
    layout.write_tokens(mask, slots, codes, scales, layout.resolve(case.cache.layout, cache.shape[1]))
    return mask.bool()


def _is_nan(codes: Tensor) -> Tensor:
    """Which elements of an FP8 tensor are NaN."""
    return torch.isnan(fp8.decode(fp8.codes(codes), fp8.format_of(codes)))


def _reached_logits(
    stage: str, case: Case, given: Tensors, *, hides_nan: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    q, weights = given["q_fp8"], given["weights"]
    vectors = _is_nan(q).any(-1)
    clean = {"q_fp8": _plain(q, vectors if hides_nan else None), "weights": _numbers(weights)}
    rows = ~torch.isfinite(weights).all(-1)
    if not hides_nan:
        rows = rows | vectors.flatten(0, -2).any(-1)
    if stage == "prefill_logits":
        k, scale = given["k_fp8"], given["k_scale"]
        clean |= {"k_fp8": _plain(k, _is_nan(k).any(-1) if hides_nan else None), "k_scale": _numbers(scale)}
        columns = (~torch.isfinite(scale)).unsqueeze(0)
    else:
        clean["cache"] = _plain_cache(case, given["cache"], q, zero=hides_nan)
        k, scale = paged_keys(case, given)
        columns = (~torch.isfinite(scale)).repeat_interleave(q.shape[1], 0)
    if not hides_nan:
        nan = _is_nan(k).any(-1)
        columns = columns | (nan.unsqueeze(0) if nan.dim() == 1 else nan.repeat_interleave(q.shape[1], 0))
    shown = visible(stage, given)
    wide = torch.nn.functional.pad(columns, (0, shown.shape[1] - columns.shape[1]))
    return {"logits": (rows.unsqueeze(1) | wide) & shown}, clean


def paged_keys(case: Case, given: Tensors) -> tuple[Tensor, Tensor]:
    """The keys that decode sees, FP8 [B, N, D], and their scales [B, N]."""
    lens, table, columns = given["context_lens"], given["block_table"], given["logits"].shape[1]
    keys = visible_keys(given["q_fp8"], given["cache"], lens, table, columns, layout=case.cache.layout)
    return keys.k_fp8, keys.k_scale


def _plain(x: Tensor, vectors: Tensor | None) -> Tensor:
    """FP8 without NaN: codes of a number in their place, or zeros for the whole of the ``vectors`` marked."""
    code = fp8.codes(x)
    plain = torch.where(_is_nan(x), PLAIN_CODE, code) if vectors is None else code * ~vectors.unsqueeze(-1)
    out = torch.empty_strided(x.shape, x.stride(), dtype=torch.uint8, device=x.device)
    return out.copy_(plain).view(x.dtype)


def _plain_cache(case: Case, cache: Tensor, q: Tensor, *, zero: bool) -> Tensor:
    """A cache without NaN codes and with finite scales, in unowned slots, too."""
    slots = torch.arange(len(cache) * cache.shape[1], device=cache.device)
    concrete = layout.resolve(case.cache.layout, cache.shape[1])
    values, scales = layout.read_tokens(cache, slots, concrete)
    keys = values.view(q.dtype)
    out = torch.empty_strided(cache.shape, cache.stride(), dtype=cache.dtype, device=cache.device)
    plain = _plain(keys, _is_nan(keys).any(-1) if zero else None).view(torch.uint8)
    layout.write_tokens(out, slots, plain, _numbers(scales), concrete)
    return out
