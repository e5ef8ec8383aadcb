"""The paged cache after an insertion: every token at its place, nothing else touched."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.checks.arrangement import SCALES, VALUES, Arrangement, Scaling, find_layout
from indexfuzz.checks.quant import LegalRows, check_rows, find_wrong_rows
from indexfuzz.core.finding import Finding, complaint


class Tokens(NamedTuple):
    """Tokens to be inserted: token i belongs to page `block[i]`, place `offset[i]`, and is row `rows[i]` of k.

    All are int64 [n].
    """

    block: Tensor
    offset: Tensor
    rows: Tensor

    @classmethod
    def at(cls, slots: Tensor, block_size: int, rows: Tensor | None = None) -> Self:
        """Tokens at slots int64 [n]; without ``rows`` they are the rows in order."""
        own = torch.arange(len(slots), device=slots.device) if rows is None else rows
        return cls(slots // block_size, slots % block_size, own)


def check_insertion(
    before: Tensor,
    after: Tensor,
    tokens: Tokens,
    legal: LegalRows,
    *,
    layout: str,
    arrangements: Mapping[str, Arrangement],
    form: Scaling,
) -> Finding | None:
    """Judge the pages of a cache, uint8 [num_blocks, page bytes], before and after tokens were written.

    ``legal`` has a row for each group of a token's dims that has a scale of its own, which ``form`` tells.
    ``layout`` names the arrangement that was promised; if the bytes are right under another one, the finding says so.
    """
    promised = arrangements[layout]
    names = tokens.rows.tolist()
    found = _check_groups(after, tokens, promised, legal, form)
    if found is None:
        return _check_others(before, after, tokens, promised, layout, form)
    i = names.index(found.index[0])
    home = f"block {int(tokens.block[i])}, offset {int(tokens.offset[i])}, {layout.upper()} layout"
    sentence = f"{found.detail} ({home})"
    seen = find_layout(before, after, tokens.block, tokens.offset, legal, layout, arrangements, form)
    if seen:
        output, where, taken_for = seen
        detail = f"{where}, but {layout.upper()} is promised: {sentence}"
        return replace(found, kind="layout-mismatch", output=output, detail=detail, layout=taken_for)
    wrong = find_wrong_rows(*read(after, tokens, promised, form), legal).view(-1, form.groups).any(1)
    if bool(_are_unchanged(before, after, tokens, promised)[wrong].all()):
        return replace(found, kind="unwritten", detail=f"never written: {sentence}")
    return replace(found, detail=sentence)


def _check_groups(
    after: Tensor, tokens: Tokens, promised: Arrangement, legal: LegalRows, form: Scaling
) -> Finding | None:
    """Judge what tokens hold, group by group.

    The finding's index is that of the token and its dim, or of the token and, where a key has several scales, the group
    of its scale.
    """
    codes, scales = read(after, tokens, promised, form)
    names = tokens.rows.tolist()
    if form.groups == 1:
        return check_rows(VALUES, SCALES, codes, scales, legal, names=names)
    found = check_rows(VALUES, SCALES, codes, scales, legal, row="group")
    if found is None:
        return None
    (token, group), dims = divmod(found.index[0], form.groups), codes.shape[1]
    first = group * dims
    place = f"token {names[token]}, dims {first} to {first + dims - 1}"
    index = (names[token], *((first + dim for dim in found.index[1:]) if found.output == VALUES else (group,)))
    return replace(found, index=index, detail=f"{place}: {found.detail}")


def read(pages: Tensor, tokens: Tokens, arrangement: Arrangement, form: Scaling) -> tuple[Tensor, Tensor]:
    """Codes uint8 [n, D] and scales fp32 [n] of the groups of tokens in uint8 [num_blocks, page bytes]."""
    values, scales = arrangement
    page = tokens.block.unsqueeze(1)
    stored = pages[page, scales[tokens.offset]].view(form.dtype).squeeze(-1)
    return form.grouped(form.read(pages[page, values[tokens.offset]])), form.load(stored)


def _are_unchanged(before: Tensor, after: Tensor, tokens: Tokens, promised: Arrangement) -> Tensor:
    """Which tokens [n] still have the bytes, values and scale, that were there before."""
    page = tokens.block.unsqueeze(1)
    same = [(before[page, part[tokens.offset]] == after[page, part[tokens.offset]]).all(1) for part in promised]
    return same[0] & same[1]


def _check_others(
    before: Tensor, after: Tensor, tokens: Tokens, promised: Arrangement, layout: str, form: Scaling
) -> Finding | None:
    """The bytes of a page that belong to none of the tokens must stay."""
    changed = before != after
    page = tokens.block.unsqueeze(1)
    for part in promised:
        changed[page, part[tokens.offset]] = False
    if not bool(changed.any()):
        return None
    i, byte = describe.first(changed)
    old, new = (f"0x{int(x[i, byte]):02x}" for x in (before, after))
    inside = (promised[0] == byte).nonzero()
    if len(inside):
        what = f"the value at offset {int(inside[0, 0])}, dim {form.per_byte * int(inside[0, 1])}"
    else:
        what = f"the scale at offset {int((promised[1] == byte).nonzero()[0, 0])}"
    count = int(changed.sum())
    detail = (
        f"block {i}, byte {byte} ({what} in the {layout.upper()} layout) belongs to no token of this step "
        f"but changed from {old} to {new}; {count} such bytes"
    )
    return complaint("guard-write", "cache", detail, (i, byte), new, old)
