"""Which arrangement the bytes of a cache show, when it is not the one that was promised."""

from collections.abc import Mapping

import torch
from torch import Tensor

from indexfuzz.checks.quant import LegalRows
from indexfuzz.reference.scales import ScaleFormat

Arrangement = tuple[Tensor, Tensor]
"""Byte offsets in a page: of the values, int64 [block_size, D], and of the scales' bytes, int64 [block_size, 4]."""

SCALE_BYTES = 4
VALUES, SCALES = "cache_values", "cache_scales"


def find_layout(
    pages: Tensor,
    block: Tensor,
    offset: Tensor,
    legal: LegalRows,
    layout: str,
    arrangements: Mapping[str, Arrangement],
    form: ScaleFormat,
) -> tuple[str, str, str] | None:
    """The output that lies elsewhere, where in words, and its layout, if another than ``layout`` explains every byte.

    pages uint8 [num_blocks, page bytes] is a view of the cache's memory; block and offset [n] say where each token
    belongs, ``legal`` what its groups may be, ``form`` how it is scaled.
    """
    right_values, right_scales = arrangements[layout]
    written = _may_be_written(legal, form)
    for name, (values, _) in arrangements.items():
        for where, (_, scales) in arrangements.items():
            moved_values, moved_scales = not torch.equal(values, right_values), not torch.equal(scales, right_scales)
            if not (moved_values or moved_scales) or not _explains(pages, block, offset, written, values, scales):
                continue
            if not moved_values:
                return SCALES, f"the scales lie as in the {where.upper()} layout", where
            also = f", the scales as in {where.upper()}" if moved_scales else ""
            return VALUES, f"the values lie as in the {name.upper()} layout{also}", name
    return None


def _may_be_written(legal: LegalRows, form: ScaleFormat) -> Tensor:
    """Bytes that each token may have written, uint8 [n, D + 4, choices], under any of its scales."""
    choices = legal.scales.unbind(-1)
    codes = torch.stack([code for scale in choices for code in legal.codes_under(scale)], -1)
    stored = [form.store(scale.contiguous()).view(torch.uint8).view(-1, SCALE_BYTES) for scale in choices]
    scales = torch.stack(stored, -1).repeat_interleave(2, -1)
    return torch.cat([codes.view(len(scales), -1, codes.shape[-1]), scales], 1)


def _explains(pages: Tensor, block: Tensor, offset: Tensor, written: Tensor, values: Tensor, scales: Tensor) -> bool:
    """Whether every byte at the addresses of an arrangement is one that some token may have written there.

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
    return len(unique) > 0 and bool(legal.gather(1, flat[unique].long().unsqueeze(1)).all())
