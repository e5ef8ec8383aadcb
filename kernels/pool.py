"""Keys that stand for several tokens: pooled over those of a group, rotated, and written when the last one arrives.

The tokens of a group that is not complete yet are kept as they are, in bf16, in a tail for each request: token p in row
p modulo the number of rows. A step reads its own tokens where they are, and older ones from the tail, before it saves
its own there; so a chunk may start and end anywhere, and a token that replaces a rejected draft is saved over it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from indexfuzz.kernels.checks import require, require_choice, require_tensor
from indexfuzz.kernels.groups import TOKENS, place_keys, require_keys, require_rings, require_step

POOLINGS = ("softmax", "max")


def tail_rows(ratio: int, *, max_drafts: int) -> int:
    """Rows of a request's tail: all tokens of a group but its last, and as many as drafts may be taken back."""
    return ratio - 1 + max_drafts


@triton.jit
def hadamard(x, LOG_DIM: tl.constexpr):
    """Walsh-Hadamard transform of x [2 ** LOG_DIM] fp32 in the order of Sylvester, times 2 ** (-LOG_DIM / 2)."""
    DIM: tl.constexpr = 1 << LOG_DIM
    for stage in tl.static_range(LOG_DIM):
        pairs = tl.trans(tl.reshape(x, [DIM >> (stage + 1), 2, 1 << stage]), 0, 2, 1)
        first, second = tl.split(pairs)
        x = tl.reshape(tl.trans(tl.join(first + second, first - second), 0, 2, 1), [DIM])
    half: tl.constexpr = 1.0 / (1 << (LOG_DIM // 2))
    return x * (half * 0.7071067811865476 if LOG_DIM % 2 else half)


@triton.jit
def _token_rows(new_at, is_new, kept_at, is_kept):
    """Rows of tokens in fp32: of this step, or from the tail; zeros of those that are neither."""
    new = tl.load(new_at, mask=is_new[:, None], other=0.0)
    kept = tl.load(kept_at, mask=is_kept[:, None], other=0.0)
    return tl.where(is_new[:, None], new, kept).to(tl.float32)


@triton.jit
def pooled_key(
    k_ptr,  # [T, HEAD_DIM] bf16
    k_stride,
    scores_ptr,  # [T, HEAD_DIM] bf16
    scores_stride,
    bias_ptr,  # [RATIO, HEAD_DIM] fp32, dense
    query_start_ptr,  # [B + 1] int32
    context_lens_ptr,  # [B] int32
    rings_ptr,  # [B] int32
    tail_ptr,  # [num_rings, ROWS, 2, HEAD_DIM] bf16
    tail_ring_stride,
    RATIO: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    LOG_DIM: tl.constexpr,
    POOLING: tl.constexpr,
):
    """The key of a program, fp32 [HEAD_DIM]; the row of its last token, how many tokens end there, and if it is due."""
    request = tl.program_id(0)
    first_token = tl.load(query_start_ptr + request)
    count = tl.load(query_start_ptr + request + 1) - first_token
    context = tl.load(context_lens_ptr + request)
    end = (context // RATIO + tl.program_id(1) + 1) * RATIO
    is_due = end <= context + count

    place = tl.arange(0, RATIO)
    dim = tl.arange(0, HEAD_DIM)
    position = end - RATIO + place
    is_new = is_due & (position >= context)
    is_kept = is_due & ~is_new
    token = (first_token + position - context).to(tl.int64)
    tail = tail_ptr + tl.load(rings_ptr + request).to(tl.int64) * tail_ring_stride
    kept_at = tail + (position % ROWS)[:, None] * (2 * HEAD_DIM) + dim[None, :]

    k = _token_rows(k_ptr + token[:, None] * k_stride + dim[None, :], is_new, kept_at, is_kept)
    if POOLING == "softmax":
        score_at = scores_ptr + token[:, None] * scores_stride + dim[None, :]
        score = _token_rows(score_at, is_new, kept_at + HEAD_DIM, is_kept)
        score += tl.load(bias_ptr + place[:, None] * HEAD_DIM + dim[None, :])
        weight = tl.exp(score - tl.max(score, axis=0)[None, :])
        pooled = tl.sum(weight * k, axis=0) / tl.sum(weight, axis=0)
    else:
        pooled = tl.max(k, axis=0)

    key = hadamard(pooled.to(tl.bfloat16).to(tl.float32), LOG_DIM)
    last_token = (first_token + end - 1 - context).to(tl.int64)
    return key, last_token, end, is_due


@triton.jit
def _pool_kernel(
    k_ptr,  # as pooled_key
    k_stride,
    scores_ptr,
    scores_stride,
    bias_ptr,
    query_start_ptr,
    context_lens_ptr,
    rings_ptr,
    tail_ptr,
    tail_ring_stride,
    keys_ptr,  # [T, HEAD_DIM] bf16
    keys_stride,
    RATIO: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    LOG_DIM: tl.constexpr,
    POOLING: tl.constexpr,
):
    key, last_token, _, is_due = pooled_key(
        k_ptr,
        k_stride,
        scores_ptr,
        scores_stride,
        bias_ptr,
        query_start_ptr,
        context_lens_ptr,
        rings_ptr,
        tail_ptr,
        tail_ring_stride,
        RATIO,
        ROWS,
        HEAD_DIM,
        LOG_DIM,
        POOLING,
    )
    dim = tl.arange(0, HEAD_DIM)
    tl.store(keys_ptr + last_token * keys_stride + dim, key.to(tl.bfloat16), mask=is_due)


@triton.jit
def save_kernel(
    k_ptr,  # [T, HEAD_DIM] bf16
    k_stride,
    scores_ptr,  # [T, HEAD_DIM] bf16
    scores_stride,
    query_start_ptr,  # [B + 1] int32
    context_lens_ptr,  # [B] int32
    rings_ptr,  # [B] int32
    tail_ptr,  # [num_rings, ROWS, 2, HEAD_DIM] bf16
    tail_ring_stride,
    ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    POOLING: tl.constexpr,
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

    dim = tl.arange(0, HEAD_DIM)
    token = (first_token + rank).to(tl.int64)
    tail = tail_ptr + tl.load(rings_ptr + request).to(tl.int64) * tail_ring_stride
    saved_at = tail + (position % ROWS)[:, None] * (2 * HEAD_DIM) + dim[None, :]
    k = tl.load(k_ptr + token[:, None] * k_stride + dim[None, :], mask=is_saved[:, None], other=0.0)
    tl.store(saved_at, k, mask=is_saved[:, None])
    if POOLING == "softmax":
        score_at = scores_ptr + token[:, None] * scores_stride + dim[None, :]
        score = tl.load(score_at, mask=is_saved[:, None], other=0.0)
        tl.store(saved_at + HEAD_DIM, score, mask=is_saved[:, None])


def pool(
    k: Tensor,
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
    pooling: str,
    block_size: int,
) -> None:
    """Make the keys that are due, say where they go and how many each token sees, and keep the tokens that are needed.

    Key g of a request is made of the tokens g * ratio to (g + 1) * ratio - 1, in every dim for itself: with the pooling
    "softmax" it is the sum of softmax(scores + bias[p % ratio]) * k, with "max" the largest k. In bf16, it is turned by
    the Hadamard matrix over sqrt(D), and written in bf16 in the row of its last token of keys [T, D]; other rows stay.
    k and scores are bf16 [T, D], bias is fp32 [ratio, D]; for "max" neither scores nor bias is read.

    Tokens query_start[b] to query_start[b + 1] of the step are those of request b after its first context_lens[b], and
    what comes behind query_start [B + 1] is padding. slot_mapping int64 [T] is the slot of a key that is due, by the
    pages of block_table [B, max_blocks], else -1; visible int32 [T] is the number of keys that a token sees,
    (p + 1) // ratio, and 0 for padding. query_start, context_lens, rings and block_table are int32.

    state bf16 [num_rings, rows, 2, D] has in ring rings[b] the last tokens of request b; nothing need be in it before.
    It has `tail_rows` rows for as many drafts as are ever taken back. Raises ValueError outside this contract.
    """
    require_choice("pooling", pooling, POOLINGS)
    require_step(query_start, context_lens, rings, block_table, slot_mapping, visible, ratio)
    num_tokens, head_dim = require_keys(keys, slot_mapping)
    num_requests = context_lens.shape[0]
    for name, tensor in (("k", k), ("scores", scores)):
        require_tensor(name, tensor, (num_tokens, head_dim), torch.bfloat16)
    require_tensor("bias", bias, (ratio, head_dim), torch.float32)
    require(bias.is_contiguous(), f"bias must be dense, got strides {bias.stride()}")
    require_rings(state, 2, head_dim, ratio - 1, "the tokens of a group but its last", torch.bfloat16)
    num_rows = state.shape[1]

    if num_tokens == 0:
        return
    tokens = (k, k.stride(0), scores, scores.stride(0))
    requests = (query_start, context_lens, rings, state, state.stride(0))
    if num_requests:
        _pool_kernel[(num_requests, num_tokens // ratio + 1)](
            *tokens,
            bias,
            *requests,
            keys,
            keys.stride(0),
            RATIO=ratio,
            ROWS=num_rows,
            HEAD_DIM=head_dim,
            LOG_DIM=head_dim.bit_length() - 1,
            POOLING=pooling,
        )
        save_kernel[(num_requests, triton.cdiv(num_tokens, TOKENS))](
            *tokens, *requests, ROWS=num_rows, HEAD_DIM=head_dim, POOLING=pooling, TOKENS=TOKENS
        )
    place_keys(query_start, context_lens, block_table, slot_mapping, visible, ratio=ratio, block_size=block_size)
