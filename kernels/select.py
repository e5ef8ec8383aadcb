"""Positions to slots: where the keys of a step go, and where the positions that a token selected lie in the cache."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from indexfuzz.kernels.checks import require, require_tensor

TOKENS = 64
"""Tokens of one program that makes a slot mapping."""


@triton.jit(do_not_specialize=["num_tokens"])
def _slots_kernel(
    positions_ptr,  # [T] int64
    token_to_req_ptr,  # [T] int32
    table_ptr,  # [B, W] int32
    table_row_stride,
    slots_ptr,  # [T] int64
    num_tokens,  # T
    BLOCK_SIZE: tl.constexpr,
    TOKENS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    is_valid = token < num_tokens
    request = tl.load(token_to_req_ptr + token, mask=is_valid, other=-1).to(tl.int64)
    has_request = request >= 0
    position = tl.load(positions_ptr + token, mask=has_request, other=0)
    page_at = request * table_row_stride + position // BLOCK_SIZE
    page = tl.load(table_ptr + page_at, mask=has_request, other=-1).to(tl.int64)
    slot = tl.where(page >= 0, page * BLOCK_SIZE + position % BLOCK_SIZE, -1)
    tl.store(slots_ptr + token, slot, mask=is_valid)


@triton.jit
def _select_kernel(
    columns_ptr,  # [T, TOPK] int32
    columns_row_stride,
    token_to_req_ptr,  # [T] int32
    table_ptr,  # [B, W] int32
    table_row_stride,
    slots_ptr,  # [T, TOPK] int32, dense
    counts_ptr,  # [T] int32
    BLOCK_SIZE: tl.constexpr,
    TOPK: tl.constexpr,
    ENTRIES: tl.constexpr,  # TOPK, padded to a power of two
):
    token = tl.program_id(0).to(tl.int64)
    entry = tl.arange(0, ENTRIES)
    position = tl.load(columns_ptr + token * columns_row_stride + entry, mask=entry < TOPK, other=-1)
    is_selected = position >= 0
    request = tl.load(token_to_req_ptr + token).to(tl.int64)
    page_at = request * table_row_stride + position // BLOCK_SIZE
    page = tl.load(table_ptr + page_at, mask=is_selected, other=0)

    # Every selected entry moves up by the number of gaps before it.
    place = tl.cumsum(is_selected.to(tl.int32), axis=0) - 1
    count = tl.sum(is_selected.to(tl.int32), axis=0)
    row = slots_ptr + token * TOPK
    tl.store(row + place, page * BLOCK_SIZE + position % BLOCK_SIZE, mask=is_selected)
    tl.store(row + entry, -1, mask=(entry >= count) & (entry < TOPK))
    tl.store(counts_ptr + token, count)


def slots(positions: Tensor, token_to_req: Tensor, block_table: Tensor, *, block_size: int) -> Tensor:
    """The slot of each token, int64 [T]: block_table[request, position // block_size] * block_size + the rest.

    positions [T], token_to_req [T] and block_table [B, W] are int32 or int64, the table of any row stride. -1
    where the request, or the page, is negative. Raises ValueError outside this contract.
    """
    num_tokens = positions.shape[0]
    require_tensor("positions", positions, (None,), torch.int64, torch.int32)
    _require_table(token_to_req, block_table, num_tokens, block_size)
    mapping = torch.empty(num_tokens, dtype=torch.int64, device=positions.device)
    if num_tokens:
        _slots_kernel[(triton.cdiv(num_tokens, TOKENS),)](
            positions,
            token_to_req,
            block_table,
            block_table.stride(0),
            mapping,
            num_tokens,
            BLOCK_SIZE=block_size,
            TOKENS=TOKENS,
        )
    return mapping


def select(columns: Tensor, token_to_req: Tensor, block_table: Tensor, *, block_size: int) -> tuple[Tensor, Tensor]:
    """The slots that each token selected, int32 [T, K], packed in front in their order, -1 behind; and how many, [T].

    columns [T, K] int32 are positions in the request of the token, negative where nothing is selected, at any place;
    token_to_req [T] and block_table [B, W] as in `slots`. A selected position has a page. Raises ValueError
    outside this contract.
    """
    require_tensor("columns", columns, (None, None), torch.int32)
    num_tokens, topk = columns.shape
    _require_table(token_to_req, block_table, num_tokens, block_size)
    require(topk > 0, "columns must have at least one entry in a row")
    selected = torch.empty((num_tokens, topk), dtype=torch.int32, device=columns.device)
    counts = torch.empty(num_tokens, dtype=torch.int32, device=columns.device)
    if num_tokens:
        _select_kernel[(num_tokens,)](
            columns,
            columns.stride(0),
            token_to_req,
            block_table,
            block_table.stride(0),
            selected,
            counts,
            BLOCK_SIZE=block_size,
            TOPK=topk,
            ENTRIES=triton.next_power_of_2(topk),
        )
    return selected, counts


def _require_table(token_to_req: Tensor, block_table: Tensor, num_tokens: int, block_size: int) -> None:
    require_tensor("token_to_req", token_to_req, (num_tokens,), torch.int32, torch.int64)
    require_tensor("block_table", block_table, (None, None), torch.int32, torch.int64)
    require(block_size > 0, f"block_size must be at least 1, got {block_size}")
