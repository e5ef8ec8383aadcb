"""Which arrangement the bytes of a cache show, when it is not the one that was promised."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from indexfuzz.checks.quant import LegalRows

Arrangement = tuple[Tensor, Tensor]
"""Byte offsets in a page: of the values, int64 [block_size, D], and of the scales' bytes, int64 [block_size, 4]."""

SCALE_BYTES = 4
VALUES, SCALES = "cache_values", "cache_scales"


class Scaling(Protocol):
    """How the scales of keys are stored; reference/scales.py has the forms that there are."""

    @property
    def groups(self) -> int:
        """Groups of a key's dims that have scales of their own."""

    @property
    def dtype(self) -> torch.dtype:
        """What stands in the cache for all scales of a key, of four bytes."""

    @property
    def per_byte(self) -> int:
        """Values of a key that share a byte."""

    def read(self, stored: Tensor) -> Tensor:
        """FP8 codes uint8 [n, D] of the bytes of values [n, D / per_byte] that are stored."""

    def write(self, codes: Tensor) -> Tensor:
        """Bytes of values [n, D / per_byte] as they are stored, for FP8 codes uint8 [n, D]."""

    def grouped(self, x: Tensor) -> Tensor:
        """Rows [n, D] as [n * groups, D / groups]."""

    def store(self, scales: Tensor) -> Tensor:
        """Scales of groups [n * groups] fp32 as they are stored, [n]."""

    def load(self, stored: Tensor) -> Tensor:
        """The scales of groups [n * groups] fp32 that are stored, [n]."""


def find_layout(
    before: Tensor,
    pages: Tensor,
    block: Tensor,
    offset: Tensor,
    legal: LegalRows,
    layout: str,
    arrangements: Mapping[str, Arrangement],
    form: Scaling,
) -> tuple[str, str, str] | None:
    """The output that lies elsewhere, where in words, and its layout, if another than ``layout`` explains every byte.

    pages uint8 [num_blocks, page bytes] is a view of the cache's memory, ``before`` what it held before tokens were
    written; block and offset [n] say where each token belongs, ``legal`` what its groups may be, ``form`` how it is
    scaled.
    """
    right_values, right_scales = arrangements[layout]
    written = _may_be_written(legal, form)
    page, byte = (before != pages).nonzero(as_tuple=True)
    changed = page * pages.stride(0) + byte
    for name, (values, _) in arrangements.items():
        for where, (_, scales) in arrangements.items():
            moved_values, moved_scales = not torch.equal(values, right_values), not torch.equal(scales, right_scales)
            if not (moved_values or moved_scales) or not _explains(
                pages, changed, block, offset, written, values, scales
            ):
                continue
            if not moved_values:
                return SCALES, f"the scales lie as in the {where.upper()} layout", where
            also = f", the scales as in {where.upper()}" if moved_scales else ""
            return VALUES, f"the values lie as in the {name.upper()} layout{also}", name
    return None


def _may_be_written(legal: LegalRows, form: Scaling) -> Tensor:
    """Bytes that each token may have written, uint8 [n, D / per_byte + 4, choices], under any of its scales.

    Of values that share a byte, and may each be one of two, the two lower and the two higher ones; of zeros, both.
    """
    codes = torch.stack([code for scale in legal.scales.unbind(-1) for code in legal.codes_under(scale)], -1)
    rows, choices = legal.scales.shape
    tokens = rows // form.groups
    by_choice = legal.scales.contiguous().view(tokens, form.groups, choices).transpose(1, 2).flatten()
    scales = form.store(by_choice).view(torch.uint8).view(tokens, choices, SCALE_BYTES).transpose(1, 2)
    values = form.write(codes.view(tokens, -1, 2 * choices).transpose(1, 2)).transpose(1, 2)
    if form.per_byte > 1:
        values = _with_negative_zeros(values)
    return torch.cat([values, scales.repeat_interleave(values.shape[-1] // choices, -1)], 1)


def _with_negative_zeros(pairs: Tensor) -> Tensor:
    """Bytes of two 4-bit values each [..., n], and the same with a sign where a zero has none: [..., 4 n]."""
    for half, sign in ((0x0F, 0x08), (0xF0, 0x80)):
        pairs = torch.cat([pairs, torch.where(pairs & half == 0, pairs | sign, pairs)], -1)
    return pairs


def _explains(
    pages: Tensor,
    changed: Tensor,
    block: Tensor,
    offset: Tensor,
    written: Tensor,
    values: Tensor,
    scales: Tensor,
) -> bool:
    """Whether each byte at the addresses of an arrangement is one that a token may have written there, and no other is.

    changed int64 [m] are the addresses of all bytes that are not what they were.
    An arrangement that leaves its page makes tokens overwrite each other, and the cache's end cuts it off: any of the
    writers of a byte may have come last, and addresses outside the cache say nothing.
    """
    span = (len(pages) - 1) * pages.stride(0) + pages.shape[1]
    flat = pages.as_strided((span,), (1,), pages.storage_offset())
    address = (block * pages.stride(0)).unsqueeze(1) + torch.cat([values[offset], scales[offset]], 1)
    inside = address < span
    unique, writer = torch.unique(address[inside], return_inverse=True)
    legal = torch.zeros((len(unique), 256), dtype=torch.bool, device=pages.device)
    legal[writer.unsqueeze(1), written[inside].long()] = True
    is_legal = len(unique) > 0 and bool(legal.gather(1, flat[unique].long().unsqueeze(1)).all())
    return is_legal and bool(torch.isin(changed, unique).all())
