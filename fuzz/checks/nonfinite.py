"""What Triton's operators make of NaN and infinities on a GPU, where a project promises as much."""

from collections.abc import Sequence

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.checks.quant import LegalRows, code_text
from indexfuzz.core.finding import Finding, complaint


def check_nonfinite_codes(
    output: str, got: Tensor, x: Tensor, legal: LegalRows, *, axes: Sequence[str]
) -> Finding | None:
    """Judge the codes uint8 [..., D] of those rows of x [..., D] that hold NaN or infinities.

    A row is right if one legal scale explains it; NaN codes are equal whatever their sign.
    """
    bad = ~torch.isfinite(x.float()).all(-1)
    seen = got.view(legal.fp8).float()
    right, want = torch.zeros_like(bad), got
    for scale in legal.scales.unbind(-1):
        candidates = legal.codes_under(scale)
        is_one = torch.zeros_like(got, dtype=torch.bool)
        for code in candidates:
            value = code.view(legal.fp8).float()
            is_one |= (seen == value) | (torch.isnan(seen) & torch.isnan(value))
        right |= is_one.all(-1)
        want = torch.where(right.unsqueeze(-1), want, candidates[0])
    wrong = (got != want) & (bad & ~right).unsqueeze(-1)
    if not bool(wrong.any()):
        return None
    index = describe.first(wrong)
    now, must = (code_text(codes[index], legal.fp8) for codes in (got, want))
    where = f"{describe.place(index, axes)} came from {float(x[index]):g} in a row with NaN or infinities"
    detail = f"{where}: it is {now}, must be {must}; {describe.share(wrong)}"
    return complaint("code-mismatch", output, detail, index, now, must, feature="nonfinite")


def check_nonfinite_logits(got: Tensor, taking_part: Tensor) -> Finding | None:
    """Logits fp32 in which a NaN weight or key scale is ``taking_part``, bool of their shape, must be NaN."""
    wrong = taking_part & ~torch.isnan(got)
    if not bool(wrong.any()):
        return None
    index = describe.first(wrong)
    seen = describe.text(got[index])
    where = describe.place(index, ("row", "column"))
    detail = f"{where} is {seen}, but a weight or scale in it is NaN; {describe.share(wrong)}"
    return complaint("bound-exceeded", "logits", detail, index, seen, "NaN", feature="nonfinite")
