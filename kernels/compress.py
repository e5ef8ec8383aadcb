"""Keys that stand for several tokens: a weighted sum of the tokens of a group, made when its last one arrives.

The tokens that a later group may need are kept from step to step in a ring for each request: token p in row p modulo
the number of rows. A step reads its own tokens where they are, and older ones from the ring, before it saves its own
there; so a chunk may start and end anywhere, and a token that replaces a rejected draft is saved over it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from indexfuzz.kernels.checks import require, require_tensor
from indexfuzz.kernels.groups import TOKENS, place_keys, require_keys, require_rings, require_step


def ring_rows(ratio: int, *, overlap: bool, max_drafts: int) -> int:
    """Rows of a request's ring: the tokens of a window, and as many as drafts may be saved and taken back."""
    return (1 + overlap) * ratio + max_drafts


@triton.jit
def weighted_key(
    kv_ptr,  # [T, WIDTH] fp32
    kv_stride,
    scores_ptr,  # [T, WIDTH] fp32
    scores_stride,
    bias_ptr,  # [RATIO, WIDTH] fp32, dense
    query_start_ptr,  # [B + 1] int32
    context_lens_ptr,  # [B] int32
    rings_ptr,  # [B] int32
    state_ptr,  # [num_rings, ROWS, 2, WIDTH] fp32
    state_ring_stride,
    RATIO: tl.constexpr,
    WINDOW: tl.constexpr,  # RATIO, or twice that with overlap
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    HEAD_DIM: tl.constexpr,
):
    """A key that a step may make of a request: program_id(1) of those of program_id(0).

    Its values [HEAD_DIM] fp32, the row of its last token, the position behind that, and whether it is due; where it is
    not, its values are NaN.
    """
    request = tl.program_id(0)
    first_token = tl.load(query_start_ptr + request)
    count = tl.load(query_start_ptr + request + 1) - first_token
    context = tl.load(context_lens_ptr + request)
    end = (context // RATIO + tl.program_id(1) + 1) * RATIO
    is_due = end <= context + count

    row = tl.arange(0, WINDOW)
    dim = tl.arange(0, HEAD_DIM)
    position = end - WINDOW + row
    is_new = is_due & (position >= context)
    is_kept = is_due & (position >= 0) & (position < context)
    # With overlap, the first half of a token's columns is its part in the next group's key.
    column = tl.where(row < WINDOW - RATIO, 0, WIDTH - HEAD_DIM)[:, None] + dim[None, :]

    token = (first_token + position - context).to(tl.int64)
    kv = tl.load(kv_ptr + token[:, None] * kv_stride + column, mask=is_new[:, None], other=0.0)
    score = tl.load(scores_ptr + token[:, None] * scores_stride + column, mask=is_new[:, None], other=0.0)
    score += tl.load(bias_ptr + (position % RATIO)[:, None] * WIDTH + column, mask=is_new[:, None], other=0.0)

    ring = state_ptr + tl.load(rings_ptr + request).to(tl.int64) * state_ring_stride
    kept_at = ring + (position % ROWS)[:, None] * (2 * WIDTH) + column
    kv = tl.where(is_new[:, None], kv, tl.load(kept_at, mask=is_kept[:, None], other=0.0))
    kept_score = tl.load(kept_at + WIDTH, mask=is_kept[:, None], other=float("-inf"))
    score = tl.where(is_new[:, None], score, kept_score)

    weight = tl.exp(score - tl.max(score, axis=0)[None, :])
    key = tl.sum(weight * kv, axis=0) / tl.sum(weight, axis=0)
    last_token = (first_token + end - 1 - context).to(tl.int64)
    return key, last_token, end, is_due


@triton.jit
def _compress_kernel(
    kv_ptr,  # as weighted_key
    kv_stride,
    scores_ptr,
    scores_stride,
    bias_ptr,
    query_start_ptr,
    context_lens_ptr,
    rings_ptr,
    state_ptr,
    state_ring_stride,
    keys_ptr,  # [T, HEAD_DIM] bf16
    keys_stride,
    RATIO: tl.constexpr,
    WINDOW: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    HEAD_DIM: tl.constexpr,
):
    key, last_token, _, is_due = weighted_key(
        kv_ptr,
        kv_stride,
        scores_ptr,
        scores_stride,
        bias_ptr,
        query_start_ptr,
        context_lens_ptr,
        rings_ptr,
        state_ptr,
        state_ring_stride,
        RATIO,
        WINDOW,
        ROWS,
        WIDTH,
        HEAD_DIM,
    )
    dim = tl.arange(0, HEAD_DIM)
    tl.store(keys_ptr + last_token * keys_stride + dim, key.to(tl.bfloat16), mask=is_due & (dim < HEAD_DIM))


@triton.jit
def save_kernel(
    kv_ptr,  # [T, WIDTH] fp32
    kv_stride,
    scores_ptr,  # [T, WIDTH] fp32
    scores_stride,
    bias_ptr,  # [RATIO, WIDTH] fp32, dense
    query_start_ptr,  # [B + 1] int32
    context_lens_ptr,  # [B] int32
    rings_ptr,  # [B] int32
    state_ptr,  # [num_rings, ROWS, 2, WIDTH] fp32
    state_ring_stride,
    RATIO: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Save the tokens of a step that a later key may need: TOKENS of those of a request."""
    request = tl.program_id(0)
    first_token = tl.load(query_start_ptr + request)
    count = tl.load(query_start_ptr + request + 1) - first_token
    context = tl.load(context_lens_ptr + request)
    rank = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    # Of a long chunk the last tokens alone: two tokens of one row would race.
    is_saved = (rank < count) & (rank >= count - ROWS)
    position = context + rank

    column = tl.arange(0, WIDTH)
    token = (first_token + rank).to(tl.int64)
    kv = tl.load(kv_ptr + token[:, None] * kv_stride + column[None, :], mask=is_saved[:, None], other=0.0)
    score = tl.load(scores_ptr + token[:, None] * scores_stride + column[None, :], mask=is_saved[:, None], other=0.0)
    bias_at = bias_ptr + (position % RATIO)[:, None] * WIDTH + column[None, :]
    score += tl.load(bias_at, mask=is_saved[:, None], other=0.0)

    ring = state_ptr + tl.load(rings_ptr + request).to(tl.int64) * state_ring_stride
    saved_at = ring + (position % ROWS)[:, None] * (2 * WIDTH) + column[None, :]
    tl.store(saved_at, kv, mask=is_saved[:, None])
    tl.store(saved_at + WIDTH, score, mask=is_saved[:, None])


def require_tokens(kv: Tensor, scores: Tensor, bias: Tensor, num_tokens: int, ratio: int, width: int) -> None:
    """Raise ValueError unless kv and scores [num_tokens, width] and a dense bias [ratio, width] are fp32."""
    for name, tensor, rows in (("kv", kv, num_tokens), ("scores", scores, num_tokens), ("bias", bias, ratio)):
        require_tensor(name, tensor, (rows, width), torch.float32)
    require(bias.is_contiguous(), f"bias must be dense, got strides {bias.stride()}")


def compress(
    kv: Tensor,
    scores: Tensor,
    bias: Tensor,
    query_start: Tensor,
    context_lens: Tensor,
    rings: Tensor,
    block_table: Tensor,
    state: Tensor,
    keys: Tensor,
    slot_mapping: Tensor,
    visible: Tensor,
    *,
    ratio: int,
    overlap: bool,
    block_size: int,
) -> None:
    """Make the keys that are due, say where they go and how many each token sees, and keep the tokens that are needed.

    Key g of a request is due with token (g + 1) * ratio - 1, in whose row of keys [T, D] bf16 it is written; other rows
    stay. It is the sum over its tokens of softmax(scores + bias[p % ratio]) * kv, in every dim for itself: its tokens
    are those of group g, by the last D columns of kv and scores [T, W] fp32, and with `overlap`, where W is 2 * D,
    also those of group g - 1, by the first D columns. bias is fp32 [ratio, W].

    Tokens query_start[b] to query_start[b + 1] of the step are those of request b after its first context_lens[b], and
    what comes behind query_start [B + 1] is padding. slot_mapping int64 [T] is the slot of a key that is due, by the
    pages of block_table [B, max_blocks], else -1; visible int32 [T] is the number of keys that a token sees,
    (p + 1) // ratio, and 0 for padding. query_start, context_lens, rings and block_table are int32.

    state fp32 [num_rings, rows, 2, W] has in ring rings[b] the last tokens of request b; nothing need be in it before.
    It has `ring_rows` rows for as many drafts as are ever taken back. Raises ValueError outside this contract.
    """
    require_step(query_start, context_lens, rings, block_table, slot_mapping, visible, ratio)
    num_tokens, head_dim = require_keys(keys, slot_mapping)
    num_requests = context_lens.shape[0]
    width, window = (1 + overlap) * head_dim, (1 + overlap) * ratio
    require_tokens(kv, scores, bias, num_tokens, ratio, width)
    require_rings(state, 2, width, window, "the tokens of a window", torch.float32)
    num_rows = state.shape[1]

    if num_tokens == 0:
        return
    blocks = triton.cdiv(num_tokens, TOKENS)
    tokens = (kv, kv.stride(0), scores, scores.stride(0), bias, query_start, context_lens, rings)
    if num_requests:
        _compress_kernel[(num_requests, num_tokens // ratio + 1)](
            *tokens,
            state,
            state.stride(0),
            keys,
            keys.stride(0),
            RATIO=ratio,
            WINDOW=window,
            ROWS=num_rows,
            WIDTH=width,
            HEAD_DIM=head_dim,
        )
        save_kernel[(num_requests, blocks)](
            *tokens, state, state.stride(0), RATIO=ratio, ROWS=num_rows, WIDTH=width, TOKENS=TOKENS
        )
    place_keys(query_start, context_lens, block_table, slot_mapping, visible, ratio=ratio, block_size=block_size)
