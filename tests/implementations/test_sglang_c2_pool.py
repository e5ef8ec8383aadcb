"""SGLang's pooling of pairs: a stand-in of our own, and the real kernel, right and with mistakes in a copy."""

import zipfile

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.session import Turn
from indexfuzz.core.stage_names import COMPRESS
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.generation.sessions import sessions
from indexfuzz.generation.stream import draw
from indexfuzz.implementations import load
from indexfuzz.implementations.loading.source import SourceError
from indexfuzz.oracles.sessions import run
from indexfuzz.subjects.in_process import InProcess

POOL = "sglang/kernels/ops/attention/dsv4/c2_decode_pool.py"

STAND_IN = {
    POOL: """\
    import torch
    import triton
    import triton.language as tl

    @triton.jit
    def pool(kv, score, positions, raw, requests, kept_kv, kept_score, pooled, spare, kept_row, RING: tl.constexpr,
             D: tl.constexpr, BLOCK: tl.constexpr):
        row, dim = tl.program_id(0), tl.arange(0, BLOCK)
        position, is_live = tl.load(positions + row), tl.load(raw + row) != 0
        request, there = tl.load(requests + row), dim < D
        before = tl.where(is_live & (position > 0), request * RING + (position - 1) % RING, spare) * kept_row + dim
        own_kv, own_score = tl.load(kv + row * D + dim, there), tl.load(score + row * D + dim, there)
        old_kv, old_score = tl.load(kept_kv + before, there), tl.load(kept_score + before, there)
        here = (request * RING + position % RING) * kept_row + dim
        tl.store(kept_kv + here, own_kv, there & is_live)
        tl.store(kept_score + here, own_score, there & is_live)
        part = 1 / (1 + tl.exp(old_score - own_score))
        tl.store(pooled + row * D + dim, old_kv * (1 - part) + own_kv * part, there)

    def c2_decode_pool(kv, score, pos, raw_out_loc, out_loc, req, state_kv, state_score, pad_row, *, ring_size=0):
        pooled, dims = torch.empty_like(kv), kv.shape[1]
        pool[(len(kv),)](kv, score, pos, raw_out_loc, req, state_kv, state_score, pooled, pad_row, state_kv.stride(0),
                         RING=ring_size, D=dims, BLOCK=triton.next_power_of_2(dims))
        return pooled, pos - pos % 2, out_loc.clamp(min=0)
    """
}


def turn(request, new):
    return Turn(request=request, new=new).model_dump()


STEPS = (
    {"turns": (turn(0, 3), turn(1, 2))},
    {"turns": (turn(1, 1), turn(0, 1)), "pad_tokens": 2},
    {"forks": ({"parent": 0, "child": 2},), "turns": (turn(2, 1), turn(1, 3)), "free": (0,)},
    {"turns": (turn(0, 5), turn(2, 1), turn(1, 1))},
)
CASE = Case().replace(
    cache={"block_size": 2, "layout": "normal"},
    batch={"max_model_len": 40},
    session={"node": COMPRESS, "ratio": 2, "steps": STEPS},
)

PLANTED = {
    "the row after": ("(position - 1) % RING, spare)", "(position + 1) % RING + 1, spare)"),
    "padding is kept": ("tl.store(kept_kv + here, own_kv, there & is_live)", "tl.store(kept_kv + here, own_kv, there)"),
    "scores the other way": ("old_score - own_score", "own_score - old_score"),
    "the first token's own": ("is_live & (position > 0)", "is_live & (position > 1)"),
}


def found_in(implementation):
    return run(CASE, implementation, LockstepDevice()).findings


def test_a_right_stand_in_passes(tree):
    implementation = load(f"sglang-c2:{tree.wheel('sglang', '0.5.23', STAND_IN)}")
    assert implementation.name == "sglang 0.5.23 dsv41 pairs"
    outcome = run(CASE, implementation, LockstepDevice())
    assert not outcome.findings
    assert outcome.stages == [COMPRESS] * len(STEPS)


def test_drawn_sessions_are_brought_inside_the_contract(tree):
    subject = InProcess(load(f"sglang-c2:{tree.folder(STAND_IN)}"), LockstepDevice())
    for case in draw(sessions((COMPRESS,)), 9, 5):
        outcome = subject.run(subject.narrow(case))
        assert not outcome.findings
        assert COMPRESS in outcome.stages


@pytest.mark.parametrize("name", PLANTED)
def test_a_mistake_in_a_copy_is_found(tree, name):
    old, new = PLANTED[name]
    assert STAND_IN[POOL].count(old) == 1
    findings = found_in(load(f"sglang-c2:{tree.folder({POOL: STAND_IN[POOL].replace(old, new)})}"))
    assert {finding.stage for finding in findings} == {COMPRESS}


def test_what_lies_outside_is_left_alone_by_name(tree):
    implementation = load(f"sglang-c2:{tree.folder(STAND_IN)}")
    drafted = {"turns": (turn(0, 1) | {"drafts": 2},)}
    outside = {
        "ratio is 2": CASE.replace(session={"ratio": 4}),
        "pairs do not overlap": CASE.replace(session={"overlap": True}),
        "nothing is drafted": CASE.replace(session={"steps": (drafted,)}),
        "rings are rows of one buffer": CASE.replace(cache={"page_pad": 16}),
    }
    for words, case in outside.items():
        assert words in run(case, implementation, LockstepDevice()).outside[COMPRESS]


def test_a_release_without_the_pooling_is_refused_in_one_sentence(tree):
    with pytest.raises(SourceError, match=r"has no sglang/kernels/ops/attention/dsv4/c2_decode_pool\.py"):
        load(f"sglang-c2:{tree.folder({'sglang/__init__.py': ''})}")


@pytest.mark.wheel
@pytest.mark.parametrize("third_party", ["INDEXFUZZ_SGLANG"], indirect=True)
def test_0_5_23_passes_and_a_mistake_in_a_copy_of_it_is_found(third_party, tree):
    assert not found_in(load(f"sglang-c2:{third_party}"))
    with zipfile.ZipFile(third_party) as wheel:
        text = wheel.read(POOL).decode()
    old = "req * RING_SIZE + (pos - 1) % RING_SIZE"
    assert text.count(old) == 1
    wrong = tree.folder({POOL: text.replace(old, "req * RING_SIZE + pos % RING_SIZE")})
    assert {finding.stage for finding in found_in(load(f"sglang-c2:{wrong}"))} == {COMPRESS}
