"""A small stand-in for vLLM's compressor of DeepSeek-V4.1, of our own: what its files must have and do, no more."""

from tests.implementations.vllm_v4_tree import METADATA, SLOTS
from tests.implementations.vllm_v4_tree import STAND_IN as OF_V4

FOLDER = "vllm/models/deepseek_v41"
COMPRESSOR = f"{FOLDER}/compressor.py"
KERNELS = f"{FOLDER}/common/ops/fused_compress_quant_cache.py"
MANAGER = "vllm/v1/worker/gpu/pcp_manager.py"

STAND_IN = {
    COMPRESSOR: """\
    from dataclasses import dataclass

    import torch
    from vllm.distributed import get_pcp_group
    from vllm.triton_utils import tl, triton

    @dataclass
    class CompressorMetadata:
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
            made = CompressorMetadata(slots, step.query_start_loc, owners)
            if self.pcp_size > 1:
                self._link_pcp_chunks(made, step.num_reqs, step.positions)
            return made

        # The ring keeps only the open row under PCP, too few for spec decoding.
        def _link_pcp_chunks(self, made, num_reqs, positions):
            starts, slots = made.query_start_loc.tolist(), made.slot_mapping.tolist()
            own = torch.full((len(slots), 3), -1)
            for i in range(num_reqs):
                last = starts[i + 1] - 1
                own[i] = torch.tensor([slots[last] // self.capacity, positions[last], last])
            every = get_pcp_group().all_gather(own, dim=0).tolist()
            places = {(ring, position): at for at, (ring, position, _) in enumerate(every)}
            rings = {ring for ring, _, _ in every if ring > 0}
            newest = {ring: max(position for of, position, _ in every if of == ring) for ring in rings}
            made.gather_tokens = own[:, 2].clamp(min=0)
            made.ring_write_slots = torch.full((len(every),), -1)
            for ring, position in newest.items():
                if position % 2 == 0:
                    at = places[ring, position]
                    made.ring_write_slots[at] = ring * self.capacity + position % self.capacity
            before = [(slots[start] // self.capacity, int(positions[start]) - 1) for start in starts[:num_reqs]]
            made.prev_row_indices = torch.tensor([places.get(wanted, -1) for wanted in before], dtype=torch.int64)
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
    def pairs(raw, positions, state, slots, starts, owners, weight, latent, others, links, num_tokens, num_reqs,
              ROW: tl.constexpr, RING: tl.constexpr, ROWS: tl.constexpr, EPS: tl.constexpr, JOINS: tl.constexpr,
              LINKED: tl.constexpr):
        program, d = tl.program_id(0), tl.arange(0, 512)
        if program < num_reqs:
            start, end = tl.load(starts + program), tl.load(starts + program + 1)
            if start < end:
                ring = state + tl.load(slots + start) // ROWS * RING
                position = tl.load(positions + start)
                if position % 2 == 1:
                    before = ring + (position - 1) % ROWS * 1024
                    if LINKED:
                        link = tl.load(links + program)
                        if link >= 0:
                            before = others + link * 1024
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
                if not LINKED:
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

    @triton.jit
    def save(rows, slots, state, RING: tl.constexpr, ROWS: tl.constexpr):
        slot, d = tl.load(slots + tl.program_id(0)), tl.arange(0, 1024)
        if slot >= 0:
            to = state + slot // ROWS * RING + slot % ROWS * 1024
            tl.store(to + d, tl.load(rows + tl.program_id(0) * 1024 + d))

    def save_ring_rows(rows, slots, state):
        save[(len(slots),)](rows, slots, state, RING=state.stride(0), ROWS=state.shape[1])

    def fused_save_compress_norm(
        kv_score, positions, state, slots, starts, owners, weight, eps, ratio, latent_out, prev_rows=None,
        prev_row_indices=None
    ):
        assert latent_out.is_contiguous()
        # Rows stay 64-byte aligned
        if ratio == 1:
            assert kv_score.shape[1] == 512 and state is None and starts is None and owners is None
            singly[(len(slots),)](kv_score, slots, weight, latent_out, ROW=kv_score.stride(0), EPS=eps)
            return
        num_reqs, num_tokens = len(starts) - 1, len(slots)
        pairs[(num_reqs + (num_tokens + 1) // 2,)](
            kv_score, positions, state, slots, starts, owners, weight, latent_out,
            kv_score if prev_rows is None else prev_rows, slots if prev_rows is None else prev_row_indices,
            num_tokens, num_reqs, ROW=kv_score.stride(0), RING=state.stride(0), ROWS=state.shape[1], EPS=eps,
            JOINS=JOINS, LINKED=prev_rows is not None)
    """,
    MANAGER: """\
    from types import SimpleNamespace

    class PCPManager:
        def __init__(self, pcp_world_size, pcp_rank, device, shard_decode_requests):
            self.ranks, self.pcp_rank = pcp_world_size, pcp_rank

        def _get_rank_segments(self, rank, counts, is_prefilling, starts):
            segments = []
            for request, count in enumerate(counts.tolist()):
                size = -(-count // (2 * self.ranks)) if is_prefilling[request] else count
                chunks = (rank, 2 * self.ranks - 1 - rank) if is_prefilling[request] else (0,)
                for chunk in chunks if is_prefilling[request] or request % self.ranks == rank else ():
                    first, last = min(chunk * size, count), min((chunk + 1) * size, count)
                    if first < last:
                        of = slice(int(starts[request]) + first, int(starts[request]) + last)
                        segments.append(SimpleNamespace(
                            global_batch_req_idx=request, global_batch_slice=of, num_tokens=last - first))
            return segments
    """,
} | {file: OF_V4[file] for file in (SLOTS, METADATA)}
