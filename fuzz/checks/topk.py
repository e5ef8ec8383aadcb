"""Top-k selections: legal if some logits within the intervals lead to them."""

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.finding import Finding, complaint


def check_topk(output: str, chosen: Tensor, logits: Tensor) -> Finding | None:
    """Judge a selection from known logits fp32 [rows, columns], -inf where not visible; ties are free, -0 equals +0."""
    columns = logits.shape[1]
    if chosen.shape[1] > columns and bool((chosen[:, columns:] == -1).all()):
        chosen = chosen[:, :columns]
    return check_reachable(output, chosen, logits, logits, logits != float("-inf"))


def check_reachable(output: str, chosen: Tensor, low: Tensor, high: Tensor, visible: Tensor) -> Finding | None:
    """Judge a selection from logits known to lie in [low, high], [rows, columns]; ``visible`` is bool.

    chosen int32 [rows, k]: a row with v visible columns has min(k, v) distinct visible columns first and -1 after.
    The set is reachable iff the smallest ``high`` inside it is at least the largest visible ``low`` outside. Rows
    with NaN are not ordered.
    """
    rows, k = chosen.shape
    columns = low.shape[1]
    index = chosen.long()
    count = visible.sum(1, keepdim=True).clamp_max(k)
    expected = torch.arange(k, device=chosen.device) < count
    in_range = (index >= 0) & (index < columns)
    safe = index.clamp(0, max(columns - 1, 0))
    times = torch.zeros((rows, columns + 1), dtype=torch.int64, device=chosen.device)
    times.scatter_add_(1, torch.where(in_range, index, columns), torch.ones_like(index))
    seen = torch.gather(visible, 1, safe) if columns else torch.zeros_like(in_range)
    repeated = in_range & (torch.gather(times, 1, torch.where(in_range, index, columns)) > 1)
    for wrong, phrase in (
        (~expected & (index != -1), "must be -1: the row has no more visible columns"),
        (expected & (index == -1), "is missing: the row has more visible columns"),
        (expected & ~in_range, "is out of range"),
        (expected & ~seen, "is not visible"),
        (expected & repeated, "is chosen more than once"),
    ):
        if bool(wrong.any()):
            return _malformed(output, chosen, wrong, phrase)
    inside = times[:, :columns] > 0
    return _order(output, low, high, visible, inside)


def _malformed(output: str, chosen: Tensor, wrong: Tensor, phrase: str) -> Finding:
    index = describe.first(wrong)
    value = int(chosen[index])
    words = f"{int(wrong.sum())} of {wrong.numel()} entries"
    detail = f"row {index[0]}, entry {index[1]}: column {value} {phrase}; {words}"
    return complaint("illegal-topk", output, detail, index, str(value), phrase)


def _order(output: str, low: Tensor, high: Tensor, visible: Tensor, inside: Tensor) -> Finding | None:
    if not low.shape[1]:
        return None
    infinity = float("inf")
    weakest, chosen_at = torch.where(inside, high, infinity).min(1)
    strongest, lost_at = torch.where(visible & ~inside, low, -infinity).max(1)
    unordered = (visible & (low.isnan() | high.isnan())).any(1)
    wrong = (weakest < strongest) & ~unordered
    if not bool(wrong.any()):
        return None
    row = int(wrong.nonzero()[0])
    lost = int((visible & ~inside & (low > weakest.unsqueeze(1)))[row].sum())
    kept = int(inside[row].sum())
    took, left = int(chosen_at[row]), int(lost_at[row])
    detail = (
        f"row {row} chose column {took} (at most {float(weakest[row]):.9g}) over column {left} "
        f"(at least {float(strongest[row]):.9g}); {lost} better columns left out of {kept} chosen; "
        f"{int(wrong.sum())} of {len(wrong)} rows wrong"
    )
    return complaint("illegal-topk", output, detail, (row, took), str(took), str(left))
