"""Top-k selections from known logits: in range, distinct, and none left out that is larger than one chosen."""

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.finding import Finding, complaint


def check_topk(output: str, chosen: Tensor, logits: Tensor, before: Tensor | None = None) -> Finding | None:
    """Judge a selection from logits fp32 [rows, columns], -inf where not visible; ties are free, -0 equals +0.

    chosen int32 [rows, k]: a row with v visible columns has min(k, v) distinct visible columns first and -1 after.
    Rows with NaN are not ordered. ``before``, a tensor like ``chosen``, is what its memory held: if all wrong entries
    still hold it, they are "unwritten".
    """
    columns = logits.shape[1]
    visible = logits != float("-inf")
    wanted = torch.arange(chosen.shape[1], device=chosen.device) < visible.sum(1, keepdim=True)
    exists = (chosen >= 0) & (chosen < columns)
    index = torch.where(exists, chosen.long(), columns)
    times = torch.zeros((len(chosen), columns + 1), dtype=torch.int64, device=chosen.device)
    times.scatter_add_(1, index, torch.ones_like(index))
    seen = torch.nn.functional.pad(visible, (0, 1)).gather(1, index)
    repeated = exists & (times.gather(1, index) > 1)
    inside = times[:, :columns] > 0
    wrong = torch.where(wanted, ~seen | repeated, chosen != -1)
    if not bool(wrong.any()):
        return _check_order(output, chosen, logits, visible, inside)
    at = describe.first(wrong)
    row, entry = at
    value, is_wanted = int(chosen[at]), bool(wanted[at])
    must = _best(logits[row], visible[row] & ~inside[row]) if is_wanted else "-1"
    count = f"{int(wrong.sum())} of {wrong.numel()} entries wrong"
    if before is not None and describe.is_unchanged(chosen, before, wrong):
        kind, words = "unwritten", f"was never written, must be {must}"
    elif not is_wanted:
        kind, words = "illegal-topk", f"is column {value}, must be -1: the row has no more visible columns"
    elif value == -1:
        kind, words = "illegal-topk", f"is -1, must be {must}: the row has more visible columns"
    elif not bool(exists[at]):
        kind, words = "illegal-topk", f"is column {value}, which does not exist: there are {columns}"
    elif not bool(seen[at]):
        kind, words = "illegal-topk", f"is column {value}, which the row does not see; {must} is left out"
    else:
        kind, words = "illegal-topk", f"is column {value}, which is chosen more than once; {must} is left out"
    return complaint(kind, output, f"row {row}, entry {entry} {words}; {count}", at, str(value), must)


def _best(logits: Tensor, left: Tensor) -> str:
    """The largest of the logits [columns] that are `left`, in words; NaN only where there is nothing else."""
    lowest = torch.finfo(logits.dtype).min
    column = int(torch.where(left, logits.nan_to_num(lowest, neginf=lowest), float("-inf")).argmax())
    return _name(column, logits[column])


def _name(column: int, logit: Tensor) -> str:
    """A column with its logit, such as ``column 3 (logit 1.5)``."""
    return f"column {column} (logit {float(logit):.9g})"


def _check_order(output: str, chosen: Tensor, logits: Tensor, visible: Tensor, inside: Tensor) -> Finding | None:
    """No column that is left out is larger than one that is chosen."""
    if not logits.shape[1]:
        return None
    infinity = float("inf")
    weakest, chosen_at = torch.where(inside, logits, infinity).min(1)
    strongest, lost_at = torch.where(visible & ~inside, logits, -infinity).max(1)
    wrong = (weakest < strongest) & ~logits.isnan().any(1)
    if not bool(wrong.any()):
        return None
    row = int(wrong.nonzero()[0])
    lost = int((visible & ~inside & (logits > weakest.unsqueeze(1)))[row].sum())
    took, left = int(chosen_at[row]), int(lost_at[row])
    entry = int((chosen[row] == took).nonzero()[0])
    seen, must = _name(took, weakest[row]), _name(left, strongest[row])
    detail = (
        f"row {row} chose {seen} over {must}; {lost} better columns left out of {int(inside[row].sum())} chosen; "
        f"{int(wrong.sum())} of {len(wrong)} rows wrong"
    )
    return complaint("illegal-topk", output, detail, (row, entry), seen, must)


def check_sorted(output: str, chosen: Tensor, logits: Tensor) -> Finding | None:
    """The columns that a row chose [rows, k], right ones, come in the order of their logits, the largest first."""
    if not logits.shape[1] or chosen.shape[1] < 2:
        return None
    values = logits.gather(1, chosen.clamp_min(0).long()).masked_fill(chosen < 0, float("-inf"))
    wrong = values[:, :-1] < values[:, 1:]
    if not bool(wrong.any()):
        return None
    row, entry = describe.first(wrong)
    small, large = (_name(int(chosen[row, at]), values[row, at]) for at in (entry, entry + 1))
    detail = (
        f"row {row}, entry {entry} is {small}, before {large}; {int(wrong.any(1).sum())} of {len(wrong)} rows wrong"
    )
    return complaint("illegal-topk", output, detail, (row, entry), small, large, feature="order")
