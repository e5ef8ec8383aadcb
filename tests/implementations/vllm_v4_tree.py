"""A small stand-in for vLLM's compressor of DeepSeek-V4, of our own: what its files must have, and do, and no more."""

FOLDER = "vllm/models/deepseek_v4"
COMPRESSOR = f"{FOLDER}/compressor.py"
KERNELS = f"{FOLDER}/common/ops/fused_compress_quant_cache.py"
SAVE = f"{FOLDER}/common/ops/save_partial_states.py"
SLOTS = "vllm/v1/attention/backends/mla/compressor_utils.py"
METADATA = "vllm/v1/attention/backends/mla/indexer.py"
COMMON = "vllm/v1/attention/ops/common.py"
PACKING = f"{FOLDER}/common/ops/fused_indexer_q.py"

STAND_IN = {
    COMPRESSOR: """\
    from typing import NamedTuple

    from torch import nn
    from vllm.forward_context import get_forward_context
    from vllm.models.deepseek_v4.common.ops.fused_compress_quant_cache import compress_norm_rope_store_triton
    from vllm.models.deepseek_v4.common.ops.save_partial_states import _SAVE_PARTIAL_STATES_KERNEL

    class CompressorMetadata(NamedTuple):
        block_table: object
        slot_mapping: object
        block_size: int
        token_to_req_indices: object

    class DeepseekCompressor(nn.Module):
        def forward(self, kv_score, positions, rotary_emb):
            kv, score = kv_score.split(kv_score.shape[1] // 2, dim=-1)
            every = get_forward_context().attn_metadata
            own, state = every[self.state_cache.prefix], self.state_cache.kv_cache
            _SAVE_PARTIAL_STATES_KERNEL(kv, score, self.ape, positions, state, own.slot_mapping, own.block_size,
                                        self.compress_ratio)
            self._compress_norm_rope_store(own, state, positions, rotary_emb, every)

        def _compress_norm_rope_store(self, own, state, positions, rotary_emb, every):
            compress_norm_rope_store_triton(
                state, own, positions, rotary_emb.cos_sin_cache, self._static_forward_context[self.k_cache_prefix],
                every[self.k_cache_prefix].slot_mapping, self.norm.weight, self.rms_norm_eps, self.head_dim,
                self.rope_head_dim, self.compress_ratio)
    """,
    SAVE: """\
    from vllm.model_executor.warmup.jit_warmup import kernel_launcher
    from vllm.model_executor.warmup.jit_warmup_triton_helper import LaunchSpec, VllmTritonJitKernel
    from vllm.triton_utils import tl, triton

    class Save(VllmTritonJitKernel["Save.Key"]):
        @staticmethod
        @triton.jit
        def kernel(kv_ptr, score_ptr, bias_ptr, positions_ptr, state_ptr, slots_ptr, row, page, WIDTH: tl.constexpr,
                   SIZE: tl.constexpr, RATIO: tl.constexpr):
            token, dim = tl.program_id(0), tl.arange(0, WIDTH)
            slot = tl.load(slots_ptr + token)
            if slot >= 0:
                to = state_ptr + slot // SIZE * page + slot % SIZE * (2 * WIDTH) + dim
                tl.store(to, tl.load(kv_ptr + token * row + dim))
                bias = tl.load(bias_ptr + tl.load(positions_ptr + token) % RATIO * WIDTH + dim)
                tl.store(to + WIDTH, tl.load(score_ptr + token * row + dim) + bias)

        @kernel_launcher
        def __call__(self, kv, score, bias, positions, state, slots, size, ratio) -> LaunchSpec:
            return (len(slots),), dict(row=kv.stride(0), page=state.stride(0), WIDTH=kv.shape[1], SIZE=size,
                                       RATIO=ratio)

    _SAVE_PARTIAL_STATES_KERNEL = Save()
    """,
    KERNELS: """\
    import torch
    from vllm.platforms import current_platform
    from vllm.triton_utils import tl, triton
    from vllm.v1.attention.ops.common import pack_ue8m0_x4

    FP8 = current_platform.fp8_dtype()
    LARGEST = 224.0 if current_platform.is_fp8_fnuz() else 448.0

    @triton.jit
    def store(state, table, table_row, owners, positions, slots, key_slots, weight, eps, angles, angles_row, cache,
              scales, page, state_page, D: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, RATIO: tl.constexpr,
              HALF: tl.constexpr, LARGEST: tl.constexpr):
        token, dim, row = tl.program_id(0), tl.arange(0, D), tl.arange(0, 2 * RATIO)
        position = tl.load(positions + token)
        if (tl.load(slots + token) >= 0) & ((position + 1) % RATIO == 0):
            at = position - 2 * RATIO + 1 + row
            there = (at >= 0)[:, None]
            pages = table + tl.load(owners + token) * table_row + at // SIZE
            pages = tl.load(pages, mask=at >= 0, other=0).to(tl.int64)
            kept = pages * state_page + at % SIZE * (4 * D) + tl.where(row < RATIO, 0, D)
            kept = state + kept[:, None] + dim[None, :]
            kv = tl.load(kept, mask=there, other=0.0)
            score = tl.load(kept + 2 * D, mask=there, other=float("-inf"))
            part = tl.exp(score - tl.max(score, axis=0)[None, :])
            key = tl.sum(part * kv, axis=0) / tl.sum(part, axis=0)
            key = key * tl.rsqrt(tl.sum(key * key, axis=0) / D + eps) * tl.load(weight + dim)

            even, odd = tl.split(tl.reshape(key, [D // 2, 2]))
            pair = tl.arange(0, D // 2) - (D // 2 - HALF)
            angle = angles + position // RATIO * RATIO * angles_row + pair
            cos = tl.load(angle, mask=pair >= 0, other=1.0)
            sin = tl.load(angle + HALF, mask=pair >= 0, other=0.0)
            key = tl.interleave(even * cos - odd * sin, odd * cos + even * sin).to(tl.bfloat16).to(tl.float32)
            scale = tl.exp2(tl.ceil(tl.log2(tl.maximum(tl.max(tl.abs(key), axis=0), 1e-4) / LARGEST)))

            slot = tl.load(key_slots + token)
            start, place = slot // ROWS * page, slot % ROWS
            tl.store(cache + start + place * D + dim, (key / scale).to(cache.dtype.element_ty))
            tl.store(scales + (start + ROWS * D) // 4 + place, scale)

    def compress_norm_rope_store_triton(state, own, positions, angles, layer, key_slots, weight, eps, dim, rope_dim,
                                        ratio):
        cache, table = layer.kv_cache, own.block_table
        store[(len(positions),)](
            state, table, table.stride(0), own.token_to_req_indices, positions, own.slot_mapping, key_slots, weight,
            eps, angles, angles.stride(0), cache.view(FP8), cache.view(torch.float32), cache.stride(0),
            state.stride(0), dim, own.block_size, cache.shape[1], ratio, rope_dim // 2, LARGEST)

    def compress_norm_rope_store_two_stage_triton():
        raise NotImplementedError
    """,
    SLOTS: """\
    import torch

    def get_compressed_slot_mapping(tokens, own_slots, starts, lens, table, size, ratio, out):
        out.fill_(-1)
        for request, (start, end) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist())):
            positions = torch.arange(end - start) + int(lens[request]) - (end - start)
            key = positions // ratio
            slots = torch.full_like(positions, -1)
            due = (positions + 1) % ratio == 0
            slots[due] = table[request, key[due] // size].long() * size + key[due] % size
            out[start:end] = slots
        return out
    """,
    METADATA: """\
    import torch
    from types import SimpleNamespace

    def build_prefill_chunk_metadata(first, last, starts, starts_cpu, lens, keys, keys_cpu, table, ratio):
        if not int(keys_cpu.sum()):
            return None
        ks, ke, base = [], [], 0
        for request in range(first, last):
            count = int(starts[request + 1] - starts[request])
            positions = torch.arange(count) + int(lens[request]) - count
            ks.append(torch.full((count,), base))
            ke.append(base + (positions + 1) // ratio)
            base += int(keys[request])
        return SimpleNamespace(cu_seqlen_ks=torch.cat(ks).int(), cu_seqlen_ke=torch.cat(ke).int(),
                               token_end=int(starts_cpu[last]))
    """,
    COMMON: """\
    def pack_ue8m0_x4(scale):
        return scale
    """,
}

OF_FP32 = "tl.store(scales + (start + ROWS * D) // 4 + place, scale)"

SM100 = STAND_IN | {
    KERNELS: STAND_IN[KERNELS]
    .replace("cache.view(torch.float32)", "cache.view(torch.int32)")
    .replace(
        OF_FP32,
        """e = scale.to(tl.int32, bitcast=True) >> 23
            tl.store(scales + (start + ROWS * D) // 4 + place, e | (e << 8) | (e << 16) | (e << 24))""",
    )
}
"""The same with a key's scale as four equal exponents."""

MXFP4 = STAND_IN | {
    KERNELS: STAND_IN[KERNELS]
    .replace("pack_ue8m0_x4\n", "pack_ue8m0_x4\n    from .fused_indexer_q import _fp32x2_to_fp4x2\n")
    .replace("cache.view(FP8), cache.view(torch.float32)", "cache, cache")
    .replace(
        "scale = tl.exp2(tl.ceil(tl.log2(tl.maximum(tl.max(tl.abs(key), axis=0), 1e-4) / LARGEST)))",
        """key = tl.reshape(key, [4, D // 4])
            largest = tl.maximum(tl.max(tl.abs(key), axis=1), 6.0 * 2**-126)
            exponent = tl.ceil(tl.log2(largest / 6.0))
            low, high = tl.split(tl.reshape(key * tl.exp2(-exponent)[:, None], [D // 2, 2]))""",
    )
    .replace(
        "tl.store(cache + start + place * D + dim, (key / scale).to(cache.dtype.element_ty))",
        "tl.store(cache + start + place * (D // 2) + tl.arange(0, D // 2), _fp32x2_to_fp4x2(low, high))",
    )
    .replace(
        OF_FP32,
        "tl.store(scales + start + ROWS * (D // 2) + place * 4 + tl.arange(0, 4), (exponent + 127).to(tl.uint8))",
    ),
    PACKING: """\
    from vllm.triton_utils import tl, triton

    MXFP4_BLOCK_SIZE = 32

    @triton.jit
    def code(x):
        size = tl.abs(x)
        above = (size > 0.25).to(tl.int32) + (size >= 0.75) + (size > 1.25) + (size >= 1.75) + (size > 2.5)
        return above + (size >= 3.5) + (size > 5.0) + 8 * (x.to(tl.int32, bitcast=True) < 0)

    @triton.jit
    def _fp32x2_to_fp4x2(low, high):
        return (code(low) | (code(high) << 4)).to(tl.uint8)
    """,
}
"""The same with keys in MXFP4."""
