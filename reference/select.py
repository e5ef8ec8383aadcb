"""Positions to slots, by the block table of their requests."""

import torch
from torch import Tensor


def slots(positions: Tensor, token_to_req: Tensor, block_table: Tensor, *, block_size: int) -> Tensor:
    """The slot of each position [T] of its request [T], int64 [T]; -1 without a request or a page."""
    mapping = torch.full_like(positions, -1, dtype=torch.int64)
    owned = (token_to_req >= 0).nonzero().flatten()
    position = positions[owned]
    page = block_table[token_to_req[owned].long(), position // block_size].long()
    mapping[owned] = torch.where(page >= 0, page * block_size + position % block_size, -1)
    return mapping


def select(columns: Tensor, token_to_req: Tensor, block_table: Tensor, *, block_size: int) -> tuple[Tensor, Tensor]:
    """The slots of the positions [T, K] int32 that are not negative, packed in front of int32 [T, K]; their number [T].

    They keep their order; -1 stands behind them.
    """
    chosen = columns >= 0
    counts = chosen.sum(1)
    token, entry = chosen.nonzero().unbind(1)
    found = slots(columns[token, entry].long(), token_to_req[token], block_table, block_size=block_size)
    selected = torch.full_like(columns, -1)
    selected[token, chosen.long().cumsum(1)[token, entry] - 1] = found.int()
    return selected, counts.int()
