"""What Triton's operators make of NaN and infinities on a GPU."""

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding, complaint
from indexfuzz.core.terms import Terms
from indexfuzz.oracles.determined import visible
from indexfuzz.oracles.nonfinite.reach import Tensors, paged_keys, tainted
from indexfuzz.reference import fp8, layout
from indexfuzz.reference.legal import legal_codes, legal_scales


def broken_rule(stage: str, case: Case, given: Tensors, got: Tensors, terms: Terms) -> Finding | None:
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


def _codes(output: str, x: Tensor, codes: Tensor, case: Case, terms: Terms) -> Finding | None:
    """The codes of rows that hold NaN or infinities; NaN codes are equal whatever their sign."""
    fmt = case.model.fp8
    bad = tainted(x)
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
    return complaint("code-mismatch", output, detail, index, now, must, feature="nonfinite")


def _nan_logits(stage: str, case: Case, given: Tensors, got: Tensor) -> Finding | None:
    """A NaN weight or key scale makes every logit that it takes part in NaN."""
    scale = given["k_scale"].unsqueeze(0) if stage == "prefill_logits" else paged_keys(case, given)[1]
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
    return complaint("bound-exceeded", "logits", detail, index, seen, "NaN", feature="nonfinite")
