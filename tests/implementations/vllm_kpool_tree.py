"""A small stand-in for vLLM's key pooling of GLM-5.3-Flash, of our own: what its files must have, and do, no more."""

from tests.implementations import vllm_v4_tree
from tests.implementations.vllm_v4_tree import COMMON, METADATA, SLOTS

FOLDER = "vllm/models/glm5next"
INDEXER = f"{FOLDER}/nvidia/sparse_indexer.py"
KERNELS = f"{FOLDER}/nvidia/ops/kpool_compress.py"
AMD_INDEXER, AMD_KERNELS = INDEXER.replace("nvidia", "amd"), KERNELS.replace("nvidia", "amd")
HELPERS = f"{FOLDER}/common/sparse_indexer.py"
SPLIT = "vllm/v1/attention/backends/utils.py"

_INDEXER = """\
    import torch
    from vllm.compilation.breakable_cudagraph import eager_break_during_capture
    from vllm.forward_context import get_forward_context
    from vllm.models.glm5next.common.sparse_indexer import grouped
    from vllm.models.glm5next.nvidia.ops import kpool_compress as ops
    from vllm.v1.attention.backends.mla.indexer import DeepseekV32IndexerMetadata

    @eager_break_during_capture
    def sparse_attn_indexer_kpool(
        hidden_states, k_cache_prefix, kv_cache, q_quant, q_scale, k, weights, quant_block_size, scale_fmt, topk_tokens,
        head_dim, max_pool_len, total_seq_lens, topk_indices_buffer, skip_k_cache_insert, gate_score, compress_ape,
        index_kpool, positions, tail_kv_cache, tail_prefix,
    ):
        every = get_forward_context().attn_metadata
        told, tails = every[k_cache_prefix], every[tail_prefix].slot_mapping
        assert isinstance(told, DeepseekV32IndexerMetadata) and k.shape[0] == told.slot_mapping.shape[0]
        ahead, end = told.num_decode_tokens, k.shape[0]
        if end > ahead:
            ops.kpool_compress_and_write_cache(
                kv_cache, k[ahead:], gate_score[ahead:], compress_ape, told.slot_mapping[ahead:], index_kpool)
            ops.kpool_seed_tail_cache(tail_kv_cache, k[ahead:], gate_score[ahead:], tails[ahead:], index_kpool)
        if told.num_decodes:
            most = told.decode.write_max_decode_len
            parts = [grouped(x[:ahead], told.decode.per_req_decode_lens, most, pad)
                     for x, pad in ((k, 0), (gate_score, 0), (told.slot_mapping, -1), (positions, -1), (tails, -1))]
            ops.kpool_decode_update_and_maybe_write_cache_batched(
                kv_cache, tail_kv_cache, *parts, compress_ape, index_kpool)
"""

_KERNELS = """\
    import torch
    from vllm.platforms import current_platform
    from vllm.triton_utils import tl, triton

    FP8 = current_platform.fp8_dtype()
    LARGEST = torch.finfo(FP8).max

    @triton.jit
    def write(k_at, score_at, bias_ptr, cache, scales, page, slot, dim, D: tl.constexpr, SIZE: tl.constexpr,
              POOL: tl.constexpr, SHUFFLE: tl.constexpr, LARGEST: tl.constexpr):
        row = tl.arange(0, POOL)
        score = tl.load(score_at).to(tl.float32) + tl.load(bias_ptr + row[:, None] * D + dim[None, :])
        part = tl.exp(score - tl.max(score, axis=0)[None, :])
        key = tl.sum(part * tl.load(k_at).to(tl.float32), axis=0) / tl.sum(part, axis=0)
        key = key.to(tl.bfloat16).to(tl.float32)
        for stage in tl.static_range(7):
            pairs = tl.trans(tl.reshape(key, [D >> (stage + 1), 2, 1 << stage]), 0, 2, 1)
            first, second = tl.split(pairs)
            key = tl.reshape(tl.trans(tl.join(first + second, first - second), 0, 2, 1), [D])
        key = (key * 0.08838834764831845).to(tl.bfloat16).to(tl.float32)
        scale = tl.exp2(tl.ceil(tl.log2(tl.maximum(tl.max(tl.abs(key), axis=0), 1e-4) * (1.0 / LARGEST))))
        start, place = slot // SIZE * page, slot % SIZE
        at = place * D + dim
        if SHUFFLE:
            at = place // 16 * 16 * D + dim // 16 * 256 + place % 16 * 16 + dim % 16
        tl.store(cache + start + at, (key / scale).to(cache.dtype.element_ty))
        tl.store(scales + (start + SIZE * D) // 4 + place, scale)

    @triton.jit
    def prefill(k_ptr, score_ptr, bias_ptr, slots_ptr, cache, scales, page, D: tl.constexpr, SIZE: tl.constexpr,
                POOL: tl.constexpr, SHUFFLE: tl.constexpr, LARGEST: tl.constexpr):
        token, dim, row = tl.program_id(0), tl.arange(0, D), tl.arange(0, POOL)
        slot = tl.load(slots_ptr + token)
        if (slot >= 0) & (token >= POOL - 1):
            at = (token - POOL + 1 + row)[:, None] * D + dim[None, :]
            write(k_ptr + at, score_ptr + at, bias_ptr, cache, scales, page, slot, dim, D, SIZE, POOL, SHUFFLE, LARGEST)

    @triton.jit
    def seed(k_ptr, score_ptr, slots_ptr, tail_ptr, tokens, block, half, RING: tl.constexpr, D: tl.constexpr,
             POOL: tl.constexpr):
        token, dim = tl.program_id(0), tl.arange(0, D)
        slot = tl.load(slots_ptr + token)
        ahead = tl.load(slots_ptr + token + POOL, mask=token + POOL < tokens, other=-1)
        if (slot >= 0) & ((ahead < 0) | (ahead // RING != slot // RING)):
            to = tail_ptr + slot // RING * block + slot % RING * D + dim
            tl.store(to, tl.load(k_ptr + token * D + dim))
            tl.store(to + half, tl.load(score_ptr + token * D + dim))

    @triton.jit
    def decode(k_ptr, score_ptr, slots_ptr, positions_ptr, tails_ptr, tail_ptr, bias_ptr, cache, scales, count, block,
               half, page, RING: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr, POOL: tl.constexpr,
               SHUFFLE: tl.constexpr, LARGEST: tl.constexpr):
        dim, row = tl.arange(0, D), tl.arange(0, POOL)
        for i in tl.range(0, count):
            token = tl.program_id(0) * count + i
            at = tl.load(tails_ptr + token)
            position = tl.load(positions_ptr + token)
            if (position >= 0) & (at >= 0):
                ring = tail_ptr + at // RING * block
                tl.store(ring + at % RING * D + dim, tl.load(k_ptr + token * D + dim))
                tl.store(ring + half + at % RING * D + dim, tl.load(score_ptr + token * D + dim))
                slot = tl.load(slots_ptr + token)
                if slot >= 0:
                    old = ((position - POOL + 1 + row) % RING)[:, None] * D + dim[None, :]
                    write(ring + old, ring + half + old, bias_ptr, cache, scales, page, slot, dim, D, SIZE, POOL,
                          SHUFFLE, LARGEST)

    def views(kv_cache):
        return kv_cache.view(FP8), kv_cache.view(torch.float32), kv_cache.stride(0)

    def kpool_compress_and_write_cache(kv_cache, k, score, bias, slots, pool):
        cache, scales, page = views(kv_cache)
        prefill[(len(k),)](k, score, bias, slots, cache, scales, page, k.shape[1], kv_cache.shape[1], pool, {shuffle},
                           LARGEST)

    def kpool_seed_tail_cache(tail, k, score, slots, pool):
        seed[(len(k),)](k, score, slots, tail, len(k), tail.stride(0), tail.stride(1), tail.shape[2], k.shape[1], pool)

    def kpool_decode_update_and_maybe_write_cache_batched(kv_cache, tail, k, score, slots, positions, tails, bias,
                                                          pool):
        cache, scales, page = views(kv_cache)
        decode[(len(k),)](k, score, slots, positions, tails, tail, bias, cache, scales, k.shape[1], tail.stride(0),
                          tail.stride(1), page, tail.shape[2], k.shape[2], kv_cache.shape[1], pool, {shuffle}, LARGEST)
"""

STAND_IN = {
    INDEXER: _INDEXER,
    AMD_INDEXER: _INDEXER.replace("nvidia", "amd"),
    KERNELS: _KERNELS.replace("{shuffle}", "False"),
    AMD_KERNELS: _KERNELS.replace("{shuffle}", "True"),
    HELPERS: """\
    import torch

    def grouped(rows, lens, most, pad):
        out = torch.full((len(lens), most, *rows.shape[1:]), pad, dtype=rows.dtype)
        for request, part in enumerate(rows.split(lens.tolist())):
            out[request, : len(part)] = part
        return out
    """,
    SPLIT: """\
    def split_decodes_and_prefills(told, decode_threshold=1, require_uniform=False):
        lens = told.query_start_loc_cpu.diff()
        is_prefill = lens > decode_threshold
        if require_uniform and int(lens[0]) <= decode_threshold:
            is_prefill = lens != lens[0]
        decodes = int(is_prefill.int().argmax()) if bool(is_prefill.any()) else len(lens)
        tokens = int(told.query_start_loc_cpu[decodes])
        return decodes, len(lens) - decodes, tokens, told.num_actual_tokens - tokens
    """,
    SLOTS: vllm_v4_tree.STAND_IN[SLOTS],
    METADATA: vllm_v4_tree.STAND_IN[METADATA]
    + """\

    from dataclasses import dataclass
    from typing import Any

    from vllm.triton_utils import tl, triton

    @dataclass
    class DeepseekV32IndexerMetadata:
        seq_lens: Any
        max_seq_len: int
        slot_mapping: Any
        num_decodes: int
        num_decode_tokens: int
        num_prefills: int
        num_prefill_tokens: int
        decode: Any = None
        prefill: Any = None

    @triton.jit
    def _kpool_tail_slot_mapping_kernel(slots, table, row, starts, positions, out, requests, used, tokens, ring,
                                        BLOCK: tl.constexpr):
        request = tl.program_id(0)
        end = tl.load(starts + request + 1)
        block = tl.load(table + request * row)
        for first in range(tl.load(starts + request), end, BLOCK):
            at = first + tl.arange(0, BLOCK)
            position = tl.load(positions + at, mask=at < end, other=0)
            tl.store(out + at, block * ring + position % ring, mask=at < end)
    """,
    COMMON: "",
}

SM100 = STAND_IN | {
    KERNELS: STAND_IN[KERNELS]
    .replace("kv_cache.view(torch.float32)", "kv_cache.view(torch.int32)")
    .replace(
        "tl.store(scales + (start + SIZE * D) // 4 + place, scale)",
        """e = scale.to(tl.int32, bitcast=True) >> 23
        tl.store(scales + (start + SIZE * D) // 4 + place, e | (e << 8) | (e << 16) | (e << 24))""",
    )
}
"""The same with a key's scale as four equal exponents."""
