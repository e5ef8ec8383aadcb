"""What tokens select: positions of their own requests, which the block tables turn into slots."""

import torch
from torch import Tensor

from indexfuzz.core.rng import below, bits
from indexfuzz.samples.places import index_dtype, tail_of
from indexfuzz.samples.requests import Requests, token_places
from indexfuzz.samples.step import Step

TABLES = ("decode_table", "prefill_table")


def place_requests(step: Step) -> None:
    """Add token_to_req [T] int32, -1 for padding, and req_table [B, W] int32, the tables of all requests in one.

    Where positions count something else, ranks [T] int64 are the places of tokens in their requests.
    """
    if "token_to_req" in step.tensors:
        return
    case = step.case
    tables = [step.tensors[name] for name in TABLES]
    width = max(table.shape[1] for table in tables)
    tail = tail_of(case, [table.flatten().tolist() for table in tables])
    rows = torch.cat([torch.nn.functional.pad(table, (0, width - table.shape[1]), value=tail) for table in tables])
    if case.batch.positions != "rank":
        step.place("ranks", token_places(case)[0].clamp_min(0))
    step.place("req_table", rows, row_pad=case.row_pad("table", *rows.shape))
    step.place("token_to_req", token_places(case)[1].to(index_dtype(case)))


def place_selection(step: Step) -> None:
    """Add columns [T, index_topk] int32: positions that each token may attend to, distinct, in no order.

    A token selects as many as it sees, at most index_topk. Positions without a page are not selected: -1 stands in
    their place, as it does behind the last.
    """
    place_requests(step)
    if "columns" in step.tensors:
        return
    case, batch = step.case, step.case.batch
    positions, requests = token_places(case)
    seen = torch.where(requests >= 0, positions + 1, 0).unsqueeze(1)
    # In strides that have no factor in common with the number, every position comes once.
    stride = 1 + below(bits(step.key("selection stride"), (len(seen), 1)), 1 << 16)
    stride = torch.where(torch.gcd(stride, seen) == 1, stride, 1)
    start = below(bits(step.key("selection start"), (len(seen), 1)), 1 << 31)
    entry = torch.arange(case.model.index_topk).unsqueeze(0)
    chosen = torch.where(entry < seen, (start + entry * stride) % seen.clamp_min(1), -1)
    if batch.select_holes:
        is_hole = below(bits(step.key("selection holes"), tuple(chosen.shape)), 8) < batch.select_holes
        chosen = torch.where(is_hole, -1, chosen)
    columns = torch.where(_has_page(step, chosen, requests), chosen, -1).int()
    step.place("columns", columns, row_pad=case.row_pad("columns", *columns.shape))


def _has_page(step: Step, chosen: Tensor, requests: Tensor) -> Tensor:
    """Which chosen positions lie in a page that the tables name."""
    if not len(Requests.of(step.case).lengths):
        return torch.zeros_like(chosen, dtype=torch.bool)
    table = step.tensors["req_table"].cpu()
    page = table[requests.clamp_min(0).unsqueeze(1), chosen.clamp_min(0) // step.case.cache.block_size]
    return (chosen >= 0) & (page >= 0) & (page < step.case.num_blocks)
