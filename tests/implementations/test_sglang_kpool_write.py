"""SGLang's key pooling: a stand-in of our own in PyTorch, and the real kernels, right and with mistakes in a copy."""

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.session import Turn
from indexfuzz.core.stage_names import FUSED_POOL
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.generation.sessions import sessions
from indexfuzz.generation.stream import draw
from indexfuzz.implementations import load
from indexfuzz.implementations.loading.source import SourceError
from indexfuzz.oracles import schedules
from indexfuzz.oracles.sessions import run
from indexfuzz.subjects.in_process import InProcess

FOLDER = "sglang/srt/layers/attention/dsa"
KERNELS, INDEXER, PLAN = (f"{FOLDER}/{name}.py" for name in ("kpool_fp8_index", "dsa_indexer_kpool", "kpool_plan"))
UTILS = f"{FOLDER}/utils.py"

STAND_IN = {
    UTILS: "INDEXER_K_CACHE_PRESHUFFLE_TILE = 16\n",
    KERNELS: """\
    import torch
    from sglang.srt.layers.attention.dsa.utils import INDEXER_K_CACHE_PRESHUFFLE_TILE
    from sglang.srt.layers.attention.dsa.utils import aiter_can_use_preshuffle_paged_mqa

    def write(buf, loc, k, score, ape):
        key = (torch.softmax(score.float() + ape, 0) * k.float()).sum(0).bfloat16().float()
        for stage in range(7):
            first, second = key.view(-1, 2, 1 << stage).unbind(1)
            key = torch.stack([first + second, first - second], 1).flatten()
        key = (key * 0.08838834764831845).bfloat16().float()
        scale = torch.exp2(torch.ceil(torch.log2(key.abs().max().clamp_min(1e-4) / 448.0)))
        page, place, dim = buf[loc // 64], loc % 64, torch.arange(128)
        at = place * 128 + dim
        if aiter_can_use_preshuffle_paged_mqa():
            tile = INDEXER_K_CACHE_PRESHUFFLE_TILE
            at = place // tile * tile * 128 + dim // tile * tile * tile + place % tile * tile + dim % tile
        page[at] = (key / scale).to(torch.float8_e4m3fn).view(torch.uint8)
        page[64 * 128 :].view(torch.float32)[place] = scale

    def kpool_max_closed_pools(tokens, kpool):
        return -(-tokens // kpool)

    def update_kpool_write_plan_cuda_graph(write_start, req_pool_indices, real_page_table, req_out, write_start_out,
                                           tail_logical_start_out, write_loc_out, kpool, num_draft_tokens, **_):
        req_out.copy_(req_pool_indices)
        write_start_out.copy_(write_start)
        for row, start in enumerate(write_start.tolist()):
            for more in range(write_loc_out.shape[1]):
                pool = start // kpool + more
                column = min(pool // 64 * kpool, real_page_table.shape[1] - 1)
                page = int(real_page_table[row * num_draft_tokens, column]) // kpool
                write_loc_out[row, more] = page * 64 + pool % 64

    def kpool_write_tail_and_maybe_compress(pool, buf, key, score, tail_k, tail_score, ape, req_pool_indices,
                                            write_start, write_loc, out_cache_loc, num_draft_tokens, **_):
        ring, kpool = tail_k.shape[1], pool.index_kpool
        for b, (ring_of, start) in enumerate(zip(req_pool_indices.tolist(), write_start.tolist())):
            if int(out_cache_loc[b * num_draft_tokens]) == 0:
                continue
            own = range(b * num_draft_tokens, (b + 1) * num_draft_tokens)
            for i, token in enumerate(own):
                tail_k[ring_of, (start + i) % ring], tail_score[ring_of, (start + i) % ring] = key[token], score[token]
            for n, group in enumerate(range(start // kpool, (start + num_draft_tokens) // kpool)):
                rows = (group * kpool + torch.arange(kpool)) % ring
                write(buf, int(write_loc[b, n]), tail_k[ring_of, rows], tail_score[ring_of, rows], ape)

    def kpool_decode_update_and_maybe_write_cache(pool, buf, tail_k, tail_score, key, slot_score, ape, block_tables,
                                                  req_pool_indices, positions, seq_lens, out_cache_loc, round_scale):
        ring, kpool = tail_k.shape[1], pool.index_kpool
        for row, position in enumerate(positions.tolist()):
            at = int(req_pool_indices[row])
            if int(out_cache_loc[row]) == 0:
                continue
            tail_k[at, position % ring], tail_score[at, position % ring] = key[row], slot_score[row]
            if position % kpool == kpool - 1:
                group = position // kpool
                rows = (group * kpool + torch.arange(kpool)) % ring
                page = int(block_tables[row, group // 64 * kpool]) // kpool
                write(buf, page * 64 + group % 64, tail_k[at, rows], tail_score[at, rows], ape)

    def build_kpool_topk_v2_plan(): ...
    def build_pooled_page_table_64(): ...
    def refresh_kpool_topk_v2_plan(): ...
    def kpool_build_ragged_layout(): ...
    def kpool_assemble_softmax_rotate_write_cache(): ...
    def scatter_kpool_tail_updates(): ...
    """,
    PLAN: """\
    import torch

    def _kpool_cpu_plan(forward, kpool, size):
        return list(zip(forward.extend_seq_lens_cpu, forward.seq_lens_cpu.tolist()))

    def _kpool_plan_to_gpu(cpu, forward, table, local_table, lens, rings, kpool, size, method):
        torch.tensor([1], dtype=torch.int64, pin_memory=True)
        return [(count, length, int(ring), row) for (count, length), ring, row in zip(cpu, rings, table)]
    """,
    INDEXER: """\
    import torch
    from sglang.srt.layers.attention.dsa import kpool_fp8_index as kernels
    from sglang.srt.layers.utils.multi_platform import MultiPlatformOp
    from sglang.srt.model_executor.forward_context import get_token_to_kv_pool

    class IndexerKPool(MultiPlatformOp):
        def _compress_write_decode(self, key, gate_score, positions, forward_batch, layer_id, metadata):
            get_token_to_kv_pool().kpool_decode_update_index_cache(
                layer_id=layer_id, key=key, slot_score=gate_score, ape=self.index_kpool_compress_ape,
                block_tables=metadata.get_page_table_64(), req_pool_indices=forward_batch.req_pool_indices,
                positions=positions, seq_lens=metadata.get_seqlens_int32(), out_cache_loc=forward_batch.out_cache_loc,
                round_scale=self.scale_fmt is not None)

        def _compress_write_extend(self, key, gate_score, positions, forward_batch, layer_id, metadata):
            pool, kpool, first = get_token_to_kv_pool(), self.index_kpool, 0
            (tail_k, tail_score), buf = pool.get_compress_tail_buffers(layer_id), pool.get_index_k_with_scale_buffer()
            for count, length, ring, row in metadata.attn_metadata.kpool_extend_plan:
                start = length - count
                old = torch.arange(start // kpool * kpool, start) % tail_k.shape[1]
                k = torch.cat([tail_k[ring, old], key[first : first + count]])
                score = torch.cat([tail_score[ring, old], gate_score[first : first + count]])
                whole = len(k) // kpool * kpool
                for n in range(0, whole, kpool):
                    group = start // kpool + n // kpool
                    page = int(row[group // 64 * kpool]) // kpool
                    kernels.write(buf, page * 64 + group % 64, k[n : n + kpool], score[n : n + kpool],
                                  self.index_kpool_compress_ape)
                new = torch.arange(length - len(k) + whole, length) % tail_k.shape[1]
                tail_k[ring, new], tail_score[ring, new] = k[whole:], score[whole:]
                first += count
    """,
}


def turn(request, new, drafts=0, accepted=0):
    return Turn(request=request, new=new, drafts=drafts, accepted=accepted).model_dump()


STEPS = (
    {"turns": (turn(0, 7), turn(1, 5))},
    {"turns": (turn(0, 6), turn(1, 1, 3, 1)), "pad_tokens": 5},
    {"turns": (turn(0, 1, 3, 3), turn(1, 1, 3, 0), turn(2, 21))},
    {"turns": (turn(2, 3), turn(0, 0), turn(1, 1, 3, 2)), "free": (0,)},
    {"turns": (turn(0, 16), turn(1, 1))},
)
PLAIN = (
    {"turns": (turn(0, 10), turn(1, 5))},
    {"turns": (turn(1, 1), turn(0, 1)), "pad_tokens": 2},
    {"turns": (turn(0, 1), turn(1, 1))},
    {"turns": (turn(0, 2), turn(1, 9))},
)


def case_of(layout="normal", steps=STEPS, fp8="e4m3fn", **session):
    return Case().replace(
        model={"head_dim": 128, "quant_group": 128, "fp8": fp8},
        cache={"block_size": 64, "layout": layout},
        batch={"max_model_len": 100},
        session={"node": FUSED_POOL, "ratio": 4, "steps": steps} | session,
    )


CASES = (case_of(), case_of("shuffle"), case_of(steps=PLAIN))

PLANTED = {
    "the ring of one group": (KERNELS, "(start + i) % ring] = key[token]", "(start + i) % kpool] = key[token]"),
    "a key of the first token alone": (KERNELS, "(start + num_draft_tokens) // kpool)", "(start + 1) // kpool)"),
    "the tail that is there already": (
        INDEXER,
        "k = torch.cat([tail_k[ring, old], key",
        "k = torch.cat([0 * tail_k[ring, old], key",
    ),
    "padding is written": (KERNELS, "if int(out_cache_loc[row]) == 0:", "if False:"),
    "the page of the group before": (KERNELS, "page * 64 + group % 64, tail_k", "page * 64 + (group - 1) % 64, tail_k"),
}


def found_in(implementation, cases=CASES):
    return [finding for case in cases for finding in run(case, implementation, LockstepDevice()).findings]


def test_a_right_stand_in_passes_in_batches_of_every_kind(tree):
    implementation = load(f"sglang-kpool-write:{tree.folder(STAND_IN)}")
    assert [implementation.kept(case).rows for case in (CASES[0], CASES[2])] == [8, 4]
    for case in CASES:
        outcome = run(case, implementation, LockstepDevice())
        assert outcome.findings == []
        assert outcome.stages == [FUSED_POOL] * len(case.session.steps)
    assert not schedules.run(CASES[0], implementation, LockstepDevice()).findings


def test_drawn_sessions_are_brought_inside_the_contract(tree):
    subject = InProcess(load(f"sglang-kpool-write:{tree.folder(STAND_IN)}"), LockstepDevice())
    for case in draw(sessions((FUSED_POOL,)), 9, 5):
        outcome = subject.run(subject.narrow(case))
        assert not outcome.findings
        assert FUSED_POOL in outcome.stages


@pytest.mark.parametrize("name", PLANTED)
def test_a_mistake_in_a_copy_is_found(tree, name):
    file, old, new = PLANTED[name]
    assert STAND_IN[file].count(old) == 1
    changed = STAND_IN | {file: STAND_IN[file].replace(old, new)}
    found = found_in(load(f"sglang-kpool-write:{tree.folder(changed)}"), (CASES[0], CASES[2]))
    assert {finding.stage for finding in found} == {FUSED_POOL}


def test_what_lies_outside_is_left_alone_by_name(tree):
    implementation = load(f"sglang-kpool-write:{tree.folder(STAND_IN)}")
    outside = {
        "ratio is 4": case_of(ratio=8),
        "keys are pooled by a softmax": case_of(pooling="max"),
        "block_size is 64": CASES[0].replace(cache={"block_size": 16}),
        "keys are e4m3fn": case_of(fp8="e4m3fnuz"),
        "the cache and the rings are dense": CASES[0].replace(cache={"page_pad": 16}),
        "as many each time": case_of(steps=(*STEPS, {"turns": (turn(1, 1, 2),)})),
    }
    for words, case in outside.items():
        assert words in run(case, implementation, LockstepDevice()).outside[FUSED_POOL]


def test_a_release_without_the_pooling_is_refused_in_one_sentence(tree):
    with pytest.raises(SourceError, match=r"has no sglang/srt/layers/attention/dsa/dsa_indexer_kpool\.py"):
        load(f"sglang-kpool-write:{tree.folder({KERNELS: STAND_IN[KERNELS], UTILS: STAND_IN[UTILS]})}")


@pytest.mark.wheel
@pytest.mark.parametrize("third_party", ["INDEXFUZZ_SGLANG"], indirect=True)
def test_the_real_kernels_pass(third_party):
    assert found_in(load(f"sglang-kpool-write:{third_party}")) == []
