"""The indexer as a model calls it: every stage in order, from projected q and k to the selected tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor

from indexfuzz.kernels.cache import k_quant_cache
from indexfuzz.kernels.checks import require, require_tensor
from indexfuzz.kernels.gather import gather
from indexfuzz.kernels.mqa_logits import mqa_logits
from indexfuzz.kernels.paged_mqa_logits import paged_mqa_logits
from indexfuzz.kernels.quant import FP8_DTYPES, q_quant
from indexfuzz.kernels.rope import rope
from indexfuzz.kernels.scales import SCALE_DTYPES, stored_values


@dataclass(frozen=True, kw_only=True)
class IndexerConfig:
    """What is fixed for a model and its cache; the stages say what each value means."""

    rope_dim: int
    rope_style: str
    rope_placement: str
    rope_mode: str
    scale_fmt: str
    fp8: str
    quant_group: int
    layout: str
    index_topk: int
    scales: str = "fp32"


@dataclass(frozen=True, kw_only=True)
class Decode:
    """The decode requests of a step, B sequences of next_n tokens each."""

    context_lens: Tensor
    """[B] or [B, next_n] int32."""
    block_table: Tensor
    """[B, max_blocks] int32."""
    next_n: int
    max_model_len: int

    @property
    def num_tokens(self) -> int:
        """Rows of the step that belong to decode requests."""
        return self.block_table.shape[0] * self.next_n


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """The prefill requests of a step: M query rows in B sequences, N keys with their context."""

    block_table: Tensor
    """[B, max_blocks] int32."""
    cu_seqlens: Tensor
    """[B + 1] int32, over the keys."""
    token_to_seq: Tensor
    """[N] int32, the sequence of each key."""
    ks: Tensor
    """[M] int32, first key that a row sees."""
    ke: Tensor
    """[M] int32, end of the keys that a row sees."""


def topk(logits: Tensor, *, index_topk: int) -> Tensor:
    """Columns of the index_topk largest logits [rows, columns] fp32 of each row, largest first, as int32.

    A column at -inf is not visible and never chosen; -1 fills the rest of [rows, index_topk].
    """
    require_tensor("logits", logits, (None, None), torch.float32)
    require(index_topk > 0, f"index_topk must be positive, got {index_topk}")
    num_rows, num_columns = logits.shape
    chosen = torch.full((num_rows, index_topk), -1, dtype=torch.int32, device=logits.device)
    count = min(index_topk, num_columns)
    values, columns = torch.topk(logits, count, dim=1)
    chosen[:, :count] = torch.where(values == float("-inf"), -1, columns)
    return chosen


def forward(
    q: Tensor,
    k: Tensor,
    weights: Tensor,
    positions: Tensor,
    cos_sin_cache: Tensor,
    cache: Tensor,
    slot_mapping: Tensor,
    *,
    config: IndexerConfig,
    decode: Decode | None = None,
    prefill: Prefill | None = None,
) -> Tensor:
    """One step of the indexer: the positions that each token attends to, int32 [T, index_topk], -1 beyond their number.

    q [T, H, D] and k [T, D] before RoPE, weights [T, H] fp32, positions [T] int64, cos_sin_cache [max_pos,
    rope_dim], cache uint8 [num_blocks, block_size, D + 4], slot_mapping [<= T]. The tokens of decode requests come
    first, then those of prefill requests, then padding. Positions count from the start of the token's own sequence.

    This step's keys are in the cache afterwards, and with rope_mode "inplace" q and k are rotated. Raises ValueError
    where a stage does.
    """
    q, k = rope(
        q,
        k,
        positions,
        cos_sin_cache,
        rope_dim=config.rope_dim,
        style=config.rope_style,
        placement=config.rope_placement,
        mode=config.rope_mode,
    )
    q_fp8, q_weights = q_quant(q, weights, scale_fmt=config.scale_fmt, fp8=config.fp8)
    k_quant_cache(
        k,
        cache,
        slot_mapping,
        scale_fmt=config.scale_fmt,
        fp8=config.fp8,
        quant_group=config.quant_group,
        layout=config.layout,
        scales=config.scales,
    )

    selected = torch.full((q.shape[0], config.index_topk), -1, dtype=torch.int32, device=q.device)
    decode_end = decode.num_tokens if decode else 0
    if decode:
        rows = slice(0, decode_end)
        selected[rows] = _select_decode(q_fp8[rows], q_weights[rows], cache, decode, config)
    if prefill:
        rows = slice(decode_end, decode_end + prefill.ks.shape[0])
        selected[rows] = _select_prefill(q_fp8[rows], q_weights[rows], cache, prefill, config)
    return selected


def _select_decode(q_fp8: Tensor, q_weights: Tensor, cache: Tensor, decode: Decode, config: IndexerConfig) -> Tensor:
    batch = decode.block_table.shape[0]
    logits = torch.empty((decode.num_tokens, decode.max_model_len), dtype=torch.float32, device=q_fp8.device)
    paged_mqa_logits(
        q_fp8.view(batch, decode.next_n, *q_fp8.shape[1:]),
        cache,
        q_weights,
        decode.context_lens,
        decode.block_table,
        logits,
        layout=config.layout,
        scales=config.scales,
    )
    return topk(logits, index_topk=config.index_topk)


def _select_prefill(q_fp8: Tensor, q_weights: Tensor, cache: Tensor, prefill: Prefill, config: IndexerConfig) -> Tensor:
    num_rows, num_keys, head_dim = q_fp8.shape[0], prefill.token_to_seq.shape[0], q_fp8.shape[2]
    stored = stored_values(config.scales, head_dim, FP8_DTYPES[config.fp8])
    k_fp8 = torch.empty((num_keys, stored.key_bytes), dtype=stored.dtype, device=q_fp8.device)
    k_scale = torch.empty(num_keys, dtype=SCALE_DTYPES[config.scales], device=q_fp8.device)
    gather(
        cache,
        prefill.block_table,
        prefill.cu_seqlens,
        prefill.token_to_seq,
        k_fp8,
        k_scale,
        quant_group=config.quant_group,
        layout=config.layout,
        scales=config.scales,
    )
    logits = torch.empty((num_rows, num_keys), dtype=torch.float32, device=q_fp8.device)
    mqa_logits(q_fp8, k_fp8, k_scale, q_weights, prefill.ks, prefill.ke, logits)
    columns = topk(logits, index_topk=config.index_topk)
    return torch.where(columns >= 0, columns - prefill.ks.unsqueeze(1), -1)
