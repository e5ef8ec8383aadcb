"""NaN and infinities, a class of values with oracles of its own.

What a kernel makes of them is its own affair, but they must not spread: one in a row, token or page changes no bit of
another. What Triton's operators make of them on a GPU is known, and a project that promises as much is held to it: a
maximum ignores NaN, so that a row's scale comes from its numbers and a NaN dot product passes the ReLU as 0;
conversion to FP8 keeps NaN, and an infinity makes the scale infinite, its row's numbers 0 and itself NaN.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from indexfuzz.case import Case
from indexfuzz.checks import describe
from indexfuzz.checks.mismatch import Mismatch
from indexfuzz.judges import Verdict
from indexfuzz.promised import visible
from indexfuzz.reference import fp8, layout
from indexfuzz.reference.legal import legal_codes, legal_scales
from indexfuzz.reference.paged_mqa_logits import visible_keys
from indexfuzz.stages import Call, Stage
from indexfuzz.terms import Terms

Tensors = Mapping[str, Tensor]

PLAIN_CODE = 0x40
"""A number for a NaN code: 2 in e4m3fn, 1 in e4m3fnuz."""


def is_drawn(case: Case) -> bool:
    """Whether a case has, or may have, values that are not finite."""
    values = case.values
    regimes = (values.q, values.k, values.weights, values.cache, values.rope)
    overrides = (float.fromhex(str(entry[-1])) for entries in values.set.values() for entry in entries)
    return "nonfinite" in regimes or any(x - x != 0 for x in overrides)


def judge(stage: Stage, case: Case, given: Call, got: Tensors, terms: Terms) -> Verdict:
    """The verdict on a stage that may have been given NaN or infinities.

    What they do not reach is judged as ever, as if numbers stood in their place. What they reach is judged where the
    implementation promises Triton's rules, else left alone.
    """
    follows = terms.promises.nonfinite == "triton"
    masks, clean = reached(stage.name, case, given.tensors, hides_nan=follows)
    finite = replace(given, tensors={**given.tensors, **clean})
    want = finite.copy().run(stage.reference)
    judged = {name: replaced(masks.get(name), want[name], tensor) for name, tensor in got.items()}
    verdict = stage.judge(case, finite.tensors, judged, terms)
    if verdict.mismatches or not follows:
        return verdict
    found = _by_triton_s_rules(stage.name, case, given.tensors, got, terms)
    return replace(verdict, mismatches=(found,)) if found else verdict


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
            masks = {name: _rows(_tainted(given[name]), given[name]) for name in names}
            return masks, {name: _numbers(given[name]) for name in names}
        case "q_quant":
            bad = _tainted(given["q"])
            weights = given["weights"]
            return (
                {"q_fp8": _rows(bad, given["q"]), "q_weights": bad | ~torch.isfinite(weights)},
                {"q": _numbers(given["q"]), "weights": _numbers(weights)},
            )
        case "k_quant_cache":
            return {"cache": _bytes_of(_tainted(given["k"]), case, given)}, {"k": _numbers(given["k"])}
        case "prefill_logits" | "paged_logits":
            return _reached_logits(stage, case, given, hides_nan=hides_nan)
        case "topk":
            logits = given["logits"]
            rows = torch.isnan(logits).any(1, keepdim=True).expand(-1, case.model.index_topk)
            return dict.fromkeys(("prefill_topk", "paged_topk"), rows), {"logits": logits.nan_to_num(0.0, *_INFINITIES)}
        case _:
            return {}, {}


_INFINITIES = (float("inf"), float("-inf"))


def _tainted(x: Tensor) -> Tensor:
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
        k, scale = _keys(case, given)
        columns = (~torch.isfinite(scale)).repeat_interleave(q.shape[1], 0)
    if not hides_nan:
        nan = _is_nan(k).any(-1)
        columns = columns | (nan.unsqueeze(0) if nan.dim() == 1 else nan.repeat_interleave(q.shape[1], 0))
    shown = visible(stage, given)
    wide = torch.nn.functional.pad(columns, (0, shown.shape[1] - columns.shape[1]))
    return {"logits": (rows.unsqueeze(1) | wide) & shown}, clean


def _keys(case: Case, given: Tensors) -> tuple[Tensor, Tensor]:
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


def _by_triton_s_rules(stage: str, case: Case, given: Tensors, got: Tensors, terms: Terms) -> Mismatch | None:
    """What NaN and infinities themselves must have become."""
    if stage == "q_quant":
        return _codes("q_fp8", given["q"], fp8.codes(got["q_fp8"]), case, terms)
    if stage == "k_quant_cache":
        slots = given["slot_mapping"].long()
        kept = slots >= 0
        concrete = layout.resolve(case.cache.layout, case.cache.block_size)
        codes, _ = layout.read_tokens(got["cache"], slots[kept], concrete)
        return _codes("cache_values", given["k"][: len(slots)][kept], codes, case, terms)
    if stage.endswith("_logits"):
        return _nan_logits(stage, case, given, got["logits"])
    return None


def _codes(output: str, x: Tensor, codes: Tensor, case: Case, terms: Terms) -> Mismatch | None:
    """The codes of rows that hold NaN or infinities; NaN codes are equal whatever their sign."""
    fmt = case.model.fp8
    bad = _tainted(x)
    seen = fp8.decode(codes, fmt)
    scales = legal_scales(x, scale_fmt=case.model.scale_fmt, fp8=fmt, arithmetic=terms.arithmetic)
    right = torch.zeros_like(bad)
    want = codes
    for scale in scales.unbind(-1):
        legal = legal_codes(x, scale, fp8=fmt, arithmetic=terms.arithmetic)
        same = torch.zeros_like(codes, dtype=torch.bool)
        for code in legal:
            value = fp8.decode(code, fmt)
            same |= (seen == value) | (torch.isnan(seen) & torch.isnan(value))
        right |= same.all(-1)
        want = torch.where(right.unsqueeze(-1), want, legal[0])
    wrong = (codes != want) & (bad & ~right).unsqueeze(-1)
    if not bool(wrong.any()):
        return None
    index = describe.first(wrong)
    now, must = (f"0x{int(c[index]):02x} ({float(fp8.decode(c, fmt)[index]):g})" for c in (codes, want))
    axes = ("token", "head", "dim") if x.dim() == 3 else ("token", "dim")
    where = f"{describe.place(index, axes)} came from {float(x[index]):g} in a row with NaN or infinities"
    detail = f"{where}: it is {now}, must be {must}; {describe.share(wrong)}"
    return Mismatch("code-mismatch", output, index, now, must, int(wrong.sum()), wrong.numel(), detail, "nonfinite")


def _nan_logits(stage: str, case: Case, given: Tensors, got: Tensor) -> Mismatch | None:
    """A NaN weight or key scale makes every logit that it takes part in NaN."""
    scale = given["k_scale"].unsqueeze(0) if stage == "prefill_logits" else _keys(case, given)[1]
    if stage == "paged_logits":
        scale = scale.repeat_interleave(given["q_fp8"].shape[1], 0)
    shown = visible(stage, given)
    columns = torch.nn.functional.pad(torch.isnan(scale), (0, shown.shape[1] - scale.shape[1]))
    wrong = (torch.isnan(given["weights"]).any(1, keepdim=True) | columns) & shown & ~torch.isnan(got)
    if not bool(wrong.any()):
        return None
    index = describe.first(wrong)
    seen = describe.text(got[index])
    where = describe.place(index, ("row", "column"))
    detail = f"{where} is {seen}, but a weight or scale in it is NaN; {describe.share(wrong)}"
    count, total = int(wrong.sum()), wrong.numel()
    return Mismatch("bound-exceeded", "logits", index, seen, "NaN", count, total, detail, "nonfinite")
