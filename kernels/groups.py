"""Tokens in groups of which each makes one key: what the operations that make them have in common.

Key g of a request is due with its token (g + 1) * ratio - 1, in whose row it is written. Tokens query_start[b] to
query_start[b + 1] of a step are those of request b after its first context_lens[b]; what comes behind the last request
is padding.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from indexfuzz.kernels.checks import require, require_head_dim, require_tensor

RATIOS = (1, 2, 4, 8, 16, 32, 64, 128)
TOKENS = 16
"""Tokens of one program that saves or places."""


@triton.jit(do_not_specialize=["num_tokens", "num_requests"])
def _place_kernel(
    query_start_ptr,  # [B + 1] int32
    context_lens_ptr,  # [B] int32
    num_requests,  # B
    num_tokens,  # T
    block_table_ptr,  # [B, max_blocks] int32
    block_table_stride,
    slot_mapping_ptr,  # [T] int64
    visible_ptr,  # [T] int32
    RATIO: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TOKENS: tl.constexpr,
):
    # The program after the last request has the padding.
    request = tl.program_id(0)
    is_request = request < num_requests
    first_token = tl.load(query_start_ptr + request)
    end_token = tl.load(query_start_ptr + request + 1, mask=is_request, other=0)
    end_token = tl.where(is_request, end_token, num_tokens)
    context = tl.load(context_lens_ptr + request, mask=is_request, other=0)
    rank = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    token = first_token + rank
    is_token = token < end_token

    position = context + rank
    is_due = is_token & is_request & ((position + 1) % RATIO == 0)
    key = position // RATIO
    page_at = block_table_ptr + request.to(tl.int64) * block_table_stride + key // BLOCK_SIZE
    page = tl.load(page_at, mask=is_due, other=0).to(tl.int64)
    slot = tl.where(is_due, page * BLOCK_SIZE + key % BLOCK_SIZE, -1)
    visible = tl.where(is_request, (position + 1) // RATIO, 0)
    tl.store(slot_mapping_ptr + token, slot, mask=is_token)
    tl.store(visible_ptr + token, visible, mask=is_token)


def place_keys(
    query_start: Tensor,
    context_lens: Tensor,
    block_table: Tensor,
    slot_mapping: Tensor,
    visible: Tensor,
    *,
    ratio: int,
    block_size: int,
) -> None:
    """Say where the keys of a step go and how many each token sees.

    slot_mapping int64 [T] is the slot of a key that is due, by the pages of block_table [B, max_blocks], else -1;
    visible int32 [T] is the number of keys that a token sees, (p + 1) // ratio, and 0 for padding.
    """
    num_requests, num_tokens = context_lens.shape[0], slot_mapping.shape[0]
    _place_kernel[(num_requests + 1, triton.cdiv(num_tokens, TOKENS))](
        query_start,
        context_lens,
        num_requests,
        num_tokens,
        block_table,
        block_table.stride(0),
        slot_mapping,
        visible,
        RATIO=ratio,
        BLOCK_SIZE=block_size,
        TOKENS=TOKENS,
    )


def require_step(
    query_start: Tensor,
    context_lens: Tensor,
    rings: Tensor,
    block_table: Tensor,
    slot_mapping: Tensor,
    visible: Tensor,
    ratio: int,
    least_ratio: int = 2,
) -> None:
    """Raise ValueError unless these are the requests of a step, and the outputs of its T tokens but for their keys."""
    ratios = [possible for possible in RATIOS if possible >= least_ratio]
    require(ratio in ratios, f"ratio must be one of {', '.join(map(str, ratios))}, got {ratio}")
    require_tensor("query_start", query_start, (None,), torch.int32)
    num_requests = query_start.shape[0] - 1
    for name, tensor in (("context_lens", context_lens), ("rings", rings)):
        require_tensor(name, tensor, (num_requests,), torch.int32)
    require_tensor("block_table", block_table, (num_requests, None), torch.int32)
    require_tensor("slot_mapping", slot_mapping, (None,), torch.int64)
    require_tensor("visible", visible, (slot_mapping.shape[0],), torch.int32)


def require_keys(keys: Tensor, slot_mapping: Tensor) -> tuple[int, int]:
    """T and D of keys; raises ValueError unless they are bf16 [T, D] for the T tokens of a slot_mapping."""
    require_tensor("keys", keys, (slot_mapping.shape[0], None), torch.bfloat16)
    num_tokens, head_dim = keys.shape
    require_head_dim(head_dim)
    return num_tokens, head_dim


def require_rings(state: Tensor, planes: int, width: int, least_rows: int, why: str, dtype: torch.dtype) -> None:
    """Raise ValueError unless state is [num_rings, rows, planes, width] with dense rings of so many rows at least."""
    require_tensor("state", state, (None, None, planes, width), dtype)
    num_rows = state.shape[1]
    require(num_rows >= least_rows, f"a ring must have at least {least_rows} rows, {why}, got {num_rows}")
    require(state.stride()[1:] == (planes * width, width, 1), f"rings must be dense, got strides {state.stride()}")
