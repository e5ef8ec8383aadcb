"""Where the keys of a step went, for compressors and poolings whose engines say that in other kernels."""

import torch
from torch import Tensor


def fill_places(
    query_start: Tensor,
    context_lens: Tensor,
    block_table: Tensor,
    slot_mapping: Tensor,
    visible: Tensor,
    *,
    ratio: int,
    size: int,
) -> None:
    """Say of each token where the key that is due with it went, and how many it sees; padding is left as it is."""
    counts = query_start.diff()
    owners = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    rows = torch.arange(len(owners), device=counts.device)
    position = context_lens[owners] + rows - query_start[owners]
    visible[rows] = ((position + 1) // ratio).int()
    due = (position + 1) % ratio == 0
    number = (position // ratio)[due]
    slot_mapping[rows[due]] = block_table[owners[due], number // size].long() * size + number % size
