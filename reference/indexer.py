"""The selection step of the indexer."""

import torch
from torch import Tensor


def topk(logits: Tensor, *, index_topk: int) -> Tensor:
    """Columns of the ``index_topk`` largest logits of each row, int32 [rows, index_topk], largest first.

    logits [rows, columns] fp32, -inf where a column is not visible. -1 fills rows that have fewer visible columns.
    """
    rows, columns = logits.shape
    chosen = torch.full((rows, index_topk), -1, dtype=torch.int32, device=logits.device)
    count = min(index_topk, columns)
    values, indices = torch.topk(logits, count, dim=1)
    chosen[:, :count] = torch.where(values == float("-inf"), -1, indices).int()
    return chosen
