"""The paged cache after an insertion: every token at its place, nothing else touched."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from indexfuzz.checks import describe, quant
from indexfuzz.checks.arrangement import SCALES, VALUES, Arrangement, layout_seen
from indexfuzz.core.finding import Finding, complaint


def inserted(
    before: Tensor,
    after: Tensor,
    block: Tensor,
    offset: Tensor,
    allowed: Tensor,
    codes_under: quant.CodesUnder,
    *,
    layout: str,
    arrangements: Mapping[str, Arrangement],
    fp8: torch.dtype,
    tokens: Sequence[int] | None = None,
) -> Finding | None:
    """Judge the pages of a cache, uint8 [num_blocks, page bytes], before and after n tokens were written.

    Token i belongs to page ``block[i]``, place ``offset[i]``; ``allowed`` [n, m] are its legal scales and
    ``codes_under`` gives its legal codes under an observed scale. ``layout`` names the arrangement that was promised;
    if the bytes are right under another one, the finding says so. ``tokens`` are the numbers of the tokens in k,
    where padding was left out.
    """
    promised = arrangements[layout]
    got_codes, got_scales = read(after, block, offset, promised)
    found = quant.rows(VALUES, SCALES, got_codes, got_scales, allowed, codes_under, fp8=fp8, names=tokens)
    if found is None:
        return _untouched(before, after, block, offset, promised, layout)
    row = found.index[0] if tokens is None else list(tokens).index(found.index[0])
    home = f"block {int(block[row])}, offset {int(offset[row])}, {layout.upper()} layout"
    sentence = f"{found.detail} ({home})"
    seen = layout_seen(after, block, offset, allowed, codes_under, layout, arrangements)
    if seen:
        output, where = seen
        detail = f"{where}, but {layout.upper()} is promised: {sentence}"
        return replace(found, kind="layout-mismatch", output=output, detail=detail)
    if _unchanged(before, after, block[row], offset[row], promised):
        return replace(found, kind="unwritten", detail=f"never written: {sentence}")
    return replace(found, detail=sentence)


def read(pages: Tensor, block: Tensor, offset: Tensor, arrangement: Arrangement) -> tuple[Tensor, Tensor]:
    """Codes uint8 [n, D] and scales fp32 [n] of the tokens at (block, offset) of uint8 [num_blocks, page bytes]."""
    values, scales = arrangement
    page = block.unsqueeze(1)
    return pages[page, values[offset]], pages[page, scales[offset]].view(torch.float32).squeeze(-1)


def _unchanged(before: Tensor, after: Tensor, block: Tensor, offset: Tensor, promised: Arrangement) -> bool:
    """Whether one token's bytes, values and scale, are still what they were."""
    return all(torch.equal(before[block, part[offset]], after[block, part[offset]]) for part in promised)


def _untouched(
    before: Tensor, after: Tensor, block: Tensor, offset: Tensor, promised: Arrangement, layout: str
) -> Finding | None:
    changed = before != after
    page = block.unsqueeze(1)
    changed[page, promised[0][offset]] = False
    changed[page, promised[1][offset]] = False
    if not bool(changed.any()):
        return None
    i, byte = describe.first(changed)
    old, new = (f"0x{int(x[i, byte]):02x}" for x in (before, after))
    inside = (promised[0] == byte).nonzero()
    if len(inside):
        what = f"the value at offset {int(inside[0, 0])}, dim {int(inside[0, 1])}"
    else:
        what = f"the scale at offset {int((promised[1] == byte).nonzero()[0, 0])}"
    count = int(changed.sum())
    detail = (
        f"block {i}, byte {byte} ({what} in the {layout.upper()} layout) belongs to no token of this step "
        f"but changed from {old} to {new}; {count} such bytes"
    )
    return complaint("guard-write", "cache", detail, (i, byte), new, old)
