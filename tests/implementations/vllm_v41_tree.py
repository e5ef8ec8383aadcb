"""A small stand-in for vLLM's compressor of DeepSeek-V4.1, of our own: what its files must have and do, no more."""

from tests.implementations.vllm_v4_tree import METADATA, SLOTS
from tests.implementations.vllm_v4_tree import STAND_IN as OF_V4

FOLDER = "vllm/models/deepseek_v41"
COMPRESSOR = f"{FOLDER}/compressor.py"
KERNELS = f"{FOLDER}/common/ops/fused_compress_quant_cache.py"

STAND_IN = {
    COMPRESSOR: """\
    from typing import NamedTuple

    from vllm.triton_utils import tl, triton

    class CompressorMetadata(NamedTuple):
        slot_mapping: object
        query_start_loc: object
        token_to_req_indices: object

    @triton.jit
    def ring_slots(slots, table, table_row, owners, positions, count, CAPACITY: tl.constexpr):
        token = tl.program_id(0)
        if token < count:
            block = tl.load(table + tl.load(owners + token) * table_row).to(tl.int64)
            tl.store(slots + token, block * CAPACITY + tl.load(positions + token) % CAPACITY)
        else:
            tl.store(slots + token, tl.full((), -1, tl.int64))

    class CompressorMetadataBuilder:
        def build(self, common_prefix_len, step):
            slots, owners = self.slot_mapping_buffer, step.token_to_req_indices(self.token_to_req_indices)
            table = step.block_table_tensor
            ring_slots[(len(slots),)](
                slots, table, table.stride(0), owners, step.positions, step.num_actual_tokens, CAPACITY=self.capacity)
            return CompressorMetadata(slots, step.query_start_loc, owners)
    """,
    KERNELS: """\
    import triton
    from vllm.platforms import current_platform
    from vllm.triton_utils import tl, triton

    JOINS = not current_platform.is_rocm()

    @triton.jit
    def norm(pooled, row, weight, latent, EPS: tl.constexpr):
        d = tl.arange(0, 512)
        factor = tl.rsqrt(tl.sum(pooled * pooled, 0) / 512 + EPS)
        tl.store(latent + row.to(tl.int64) * 512 + d, (pooled * factor * tl.load(weight + d)).to(tl.bfloat16))

    @triton.jit
    def pairs(raw, positions, state, slots, starts, owners, weight, latent, num_tokens, num_reqs, ROW: tl.constexpr,
              RING: tl.constexpr, ROWS: tl.constexpr, EPS: tl.constexpr, JOINS: tl.constexpr):
        program, d = tl.program_id(0), tl.arange(0, 512)
        if program < num_reqs:
            start, end = tl.load(starts + program), tl.load(starts + program + 1)
            if start < end:
                ring = state + tl.load(slots + start) // ROWS * RING
                position = tl.load(positions + start)
                if position % 2 == 1:
                    before = ring + (position - 1) % ROWS * 1024
                    own = raw + start * ROW
                    if JOINS:
                        both = tl.join(before, own)[:, None] + d[None, :]
                        kv, score = tl.load(both), tl.load(both + 512)
                        tl.debug_barrier()
                        pooled = tl.sum(kv * tl.softmax(score, 0), 0)
                    else:
                        kv, score = tl.load(before + d), tl.load(before + 512 + d)
                        new_kv, new_score = tl.load(own + d), tl.load(own + 512 + d)
                        tl.debug_barrier()
                        part = 1 / (1 + tl.exp(score - new_score))
                        pooled = kv * (1 - part) + new_kv * part
                    norm(pooled, start, weight, latent, EPS)
                for token in tl.range(tl.maximum(end - ROWS, start), end):
                    to = ring + tl.load(slots + token) % ROWS * 1024
                    tl.store(to + d, tl.load(raw + token * ROW + d))
                    tl.store(to + 512 + d, tl.load(raw + token * ROW + 512 + d))
            return
        token = (program - num_reqs) * 2
        token += (tl.load(positions + token) + 1) % 2
        if tl.load(slots + token, token < num_tokens, other=-1) < 0:
            return
        if token == tl.load(starts + tl.load(owners + token)):
            return
        both = raw + (token - 1 + tl.arange(0, 2)[:, None]) * ROW + d[None, :]
        norm(tl.sum(tl.load(both) * tl.softmax(tl.load(both + 512), 0), 0), token, weight, latent, EPS)

    @triton.jit
    def singly(raw, slots, weight, latent, ROW: tl.constexpr, EPS: tl.constexpr):
        token = tl.program_id(0)
        if tl.load(slots + token) >= 0:
            norm(tl.load(raw + token * ROW + tl.arange(0, 512)), token, weight, latent, EPS)

    def fused_save_compress_norm(kv_score, positions, state, slots, starts, owners, weight, eps, ratio, latent_out):
        assert latent_out.is_contiguous()
        # Rows stay 64-byte aligned
        if ratio == 1:
            assert kv_score.shape[1] == 512 and state is None and starts is None and owners is None
            singly[(len(slots),)](kv_score, slots, weight, latent_out, ROW=kv_score.stride(0), EPS=eps)
            return
        num_reqs, num_tokens = len(starts) - 1, len(slots)
        pairs[(num_reqs + (num_tokens + 1) // 2,)](
            kv_score, positions, state, slots, starts, owners, weight, latent_out, num_tokens, num_reqs,
            ROW=kv_score.stride(0), RING=state.stride(0), ROWS=state.shape[1], EPS=eps, JOINS=JOINS)
    """,
} | {file: OF_V4[file] for file in (SLOTS, METADATA)}
