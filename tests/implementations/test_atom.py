"""ATOM's compressor of index keys: a stand-in of our own in PyTorch, and the real kernels, right and with mistakes."""

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.session import Turn
from indexfuzz.core.stage_names import FUSED_COMPRESS
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.generation.sessions import sessions
from indexfuzz.generation.stream import draw
from indexfuzz.implementations import load
from indexfuzz.implementations.loading.source import SourceError
from indexfuzz.oracles import schedules
from indexfuzz.oracles.sessions import run
from indexfuzz.subjects.in_process import InProcess

FOLDER = "atom/model_ops/v4_kernels"
FUSED, STATES, PLAN, INDEX = (
    f"{FOLDER}/{name}.py" for name in ("fused_compress", "state_writes", "compress_plan", "pool_index")
)

STAND_IN = {
    INDEX: """\
    def row_offset(): ...
    def window_constexprs(): ...
    def window_row(): ...
    """,
    PLAN: """\
    from dataclasses import dataclass
    from typing import Any

    @dataclass
    class CompressPlan:
        compress_plan_gpu: Any
        write_plan_gpu: Any

    def make_compress_plans(counts, lens, forms, plan_buffers, graph_bs=None, max_q_len=None):
        ((ratio, overlap),) = forms
        window, rows = ratio * (1 + overlap), []
        for request, (count, length) in enumerate(zip(counts.tolist(), lens.tolist())):
            rows += [(len(rows) + i, request, length - count + i, max(window - i - 1, 0)) for i in range(count)]
        due = [row for row in rows if (row[2] + 1) % ratio == 0]
        kept = [row for row in rows if row[2] >= lens[row[1]] - window]
        found = []
        for name, chosen, each in (("compress", due, -(-(max_q_len or 0) // ratio)), ("write", kept, max_q_len)):
            buffer = plan_buffers[ratio][name]
            size = graph_bs * each if graph_bs else len(chosen)
            buffer.np[:size] = -1
            if chosen:
                buffer.np[: len(chosen)] = chosen
            found.append(buffer.copy_to_gpu(size))
        return {ratio: CompressPlan(*found)}
    """,
    STATES: """\
    from atom.model_ops.v4_kernels.pool_index import row_offset, window_constexprs, window_row
    from atom.utils.decorators import mark_trace

    @mark_trace
    def update_compressor_states(kv, score, ape, kv_state, score_state, *, write_plan, state_slot_mapping, ratio,
                                 overlap):
        for token, request, position, _ in write_plan.tolist():
            if position >= 0:
                at = int(state_slot_mapping[request]), position % kv_state.shape[1]
                kv_state[at], score_state[at] = kv[token], score[token] + ape[position % ratio]
    """,
    FUSED: """\
    import torch
    from atom.model_ops.v4_kernels.compress_plan import CompressPlan
    from atom.model_ops.v4_kernels.pool_index import row_offset
    from atom.utils import envs
    from atom.utils.decorators import mark_trace

    @mark_trace
    def fused_compress_attn(*, kv_in, score_in, kv_state, score_state, plan, state_slot_mapping, ape, rms_weight,
                            rms_eps, cos_cache, sin_cache, kv_cache, block_tables, k_per_block, overlap, ratio,
                            head_dim, rope_head_dim, cache_scale, use_ue8m0, preshuffle, quant_mode, fp8_max):
        assert envs.ATOM_FUSED_COMPRESS_USE_FLYDSL == "never" and isinstance(plan, CompressPlan)
        assert quant_mode == "per_row_fp8" and preshuffle and use_ue8m0 and block_tables.is_contiguous()
        window = ratio * (1 + overlap)
        for token, request, position, kept in plan.compress_plan_gpu.tolist():
            if position < 0:
                continue
            ring, rows, scores = int(state_slot_mapping[request]), [], []
            for i in range(window):
                at, half = position - window + 1 + i, slice(i // ratio * head_dim, (i // ratio + 1) * head_dim)
                if at >= 0 and i < kept:
                    rows.append(kv_state[ring, at % kv_state.shape[1], half])
                    scores.append(score_state[ring, at % kv_state.shape[1], half])
                elif at >= 0:
                    rows.append(kv_in[token - window + 1 + i, half])
                    scores.append(score_in[token - window + 1 + i, half] + ape[at % ratio, half])
            key = (torch.softmax(torch.stack(scores), 0) * torch.stack(rows)).sum(0)
            key = key * torch.rsqrt(key.square().mean() + rms_eps) * rms_weight.float()
            first, second = key[head_dim - rope_head_dim :].view(-1, 2).unbind(1)
            start = position // ratio * ratio
            cos, sin = cos_cache[start].float(), sin_cache[start].float()
            turned = torch.stack([first * cos - second * sin, second * cos + first * sin], 1).flatten()
            key = torch.cat([key[: head_dim - rope_head_dim], turned])
            scale = torch.exp2(torch.ceil(torch.log2(key.abs().max().clamp_min(1e-4) / fp8_max)))
            number = position // ratio
            page, place = int(block_tables[request, number // k_per_block]), number % k_per_block
            dim = torch.arange(head_dim)
            at = place // 16 * 16 * head_dim + dim // 16 * 256 + place % 16 * 16 + dim % 16
            codes = (key / scale).to(kv_cache.dtype).view(torch.uint8)
            kv_cache[page].view(torch.uint8).view(-1)[at] = codes
            cache_scale[page, place] = scale
    """,
}


def turn(request, new, drafts=0, accepted=0):
    return Turn(request=request, new=new, drafts=drafts, accepted=accepted).model_dump()


STEPS = (
    {"turns": (turn(0, 7), turn(1, 5))},
    {"turns": (turn(0, 1, 3, 1), turn(1, 1, 3)), "pad_tokens": 6},
    {"forks": ({"parent": 0, "child": 2},), "turns": (turn(2, 6), turn(1, 9)), "free": (0,)},
    {"turns": (turn(0, 20), turn(2, 1))},
)


def case_of(fp8="e4m3fn", steps=STEPS, **session):
    session = {"node": FUSED_COMPRESS, "ratio": 4, "overlap": True, "steps": steps} | session
    return Case().replace(
        model={"head_dim": 128, "quant_group": 128, "rope_dim": 64, "fp8": fp8},
        cache={"block_size": 64, "layout": "shuffle", "page_pad": 4},
        rope={"style": "interleaved", "placement": "last"},
        batch={"max_model_len": 100},
        session=session,
    )


CASES = (case_of(), case_of("e4m3fnuz"))

PLANTED = {
    "a ring of one window": (STATES, "position % kv_state.shape[1]", "position % (ratio * (1 + overlap))"),
    "angles of the last token": (FUSED, "start = position // ratio * ratio", "start = position"),
    "the bias is left out": (STATES, "score[token] + ape[position % ratio]", "score[token]"),
    "too few are kept": (PLAN, ">= lens[row[1]] - window", ">= lens[row[1]] - ratio"),
}


def found_in(implementation, cases=CASES):
    return [finding for case in cases for finding in run(case, implementation, LockstepDevice()).findings]


def test_a_right_stand_in_passes(tree):
    implementation = load(f"atom-v4:{tree.folder(STAND_IN)}")
    for case in CASES:
        outcome = run(case, implementation, LockstepDevice())
        assert outcome.findings == []
        assert outcome.stages == [FUSED_COMPRESS] * len(STEPS)
    assert not schedules.run(CASES[0], implementation, LockstepDevice()).findings


def test_drawn_sessions_are_brought_inside_the_contract(tree):
    subject = InProcess(load(f"atom-v4:{tree.folder(STAND_IN)}"), LockstepDevice())
    for case in draw(sessions((FUSED_COMPRESS,)), 9, 4):
        outcome = subject.run(subject.narrow(case))
        assert not outcome.findings
        assert FUSED_COMPRESS in outcome.stages


@pytest.mark.parametrize("name", PLANTED)
def test_a_mistake_in_a_copy_is_found(tree, name):
    file, old, new = PLANTED[name]
    assert STAND_IN[file].count(old) == 1
    changed = STAND_IN | {file: STAND_IN[file].replace(old, new)}
    found = found_in(load(f"atom-v4:{tree.folder(changed)}"), CASES[:1])
    assert {finding.stage for finding in found} == {FUSED_COMPRESS}


def test_what_lies_outside_is_left_alone_by_name(tree):
    implementation = load(f"atom-v4:{tree.folder(STAND_IN)}")
    outside = {
        "ratio is 4": case_of(ratio=8),
        "a key is also made of the group before": case_of(overlap=False),
        "a page has 64 keys": CASES[0].replace(cache={"block_size": 16}),
        "pages are shuffled": CASES[0].replace(cache={"layout": "normal"}),
        "drafts follow one token": case_of(steps=({"turns": (turn(0, 3, 1),)},)),
    }
    for words, case in outside.items():
        assert words in run(case, implementation, LockstepDevice()).outside[FUSED_COMPRESS]


def test_a_checkout_without_the_compressor_is_refused_in_one_sentence(tree):
    with pytest.raises(SourceError, match=r"has no atom/model_ops/v4_kernels/fused_compress\.py"):
        load(f"atom-v4:{tree.folder({INDEX: STAND_IN[INDEX]})}")


@pytest.mark.wheel
@pytest.mark.parametrize("third_party", ["INDEXFUZZ_ATOM"], indirect=True)
def test_the_real_kernels_pass(third_party):
    assert found_in(load(f"atom-v4:{third_party}")) == []
