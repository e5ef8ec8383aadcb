"""vLLM's key pooling: a stand-in of our own, and the real kernels, right and with mistakes in a copy."""

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
from tests.implementations.vllm_kpool_tree import KERNELS, SM100, SPLIT, STAND_IN


def turn(request, new, drafts=0, accepted=0):
    return Turn(request=request, new=new, drafts=drafts, accepted=accepted).model_dump()


STEPS = (
    {"turns": (turn(0, 8), turn(1, 5))},
    {"turns": (turn(0, 7), turn(1, 1, 3, 1)), "pad_tokens": 2},
    {"turns": (turn(0, 1, 3, 3), turn(1, 1, 3, 0), turn(2, 21))},
    {"turns": (turn(2, 1), turn(0, 0), turn(1, 1, 3, 2)), "free": (0,)},
    {"turns": (turn(0, 16), turn(1, 1))},
)
UNALIGNED = ({"turns": (turn(0, 6), turn(1, 3))}, {"turns": (turn(1, 9), turn(0, 10))})
UNEQUAL = ({"turns": (turn(0, 6), turn(1, 3))}, {"turns": (turn(0, 1, 3, 3), turn(1, 1))})


def case_of(fp8="e4m3fn", layout="normal", steps=STEPS, **session):
    return Case().replace(
        model={"head_dim": 128, "quant_group": 128, "fp8": fp8},
        cache={"block_size": 64, "layout": layout, "page_pad": 4},
        batch={"max_model_len": 100},
        session={"node": FUSED_POOL, "ratio": 4, "steps": steps} | session,
    )


CASES = (case_of(), case_of("e4m3fn", "shuffle"), case_of("e4m3fnuz", "auto"))

PLANTED = {
    "positions of the group": (KERNELS, "position - POOL + 1 + row", "position - POOL + row", "pool"),
    "not rotated": (KERNELS, "tl.static_range(7)", "tl.static_range(0)", "pool"),
    "dense tails": (KERNELS, "tail_ptr + slot // RING * block", "tail_ptr + slot // RING * 2 * half", "uninitialised"),
    "scales of the neighbour": (
        KERNELS,
        "(start + SIZE * D) // 4 + place",
        "(start + SIZE * D) // 4 + place + 1",
        "k_qu",
    ),
    "one token decodes": (SPLIT, "lens > decode_threshold", "lens > 1", "pool"),
}


def found_in(implementation, cases=CASES):
    return [finding for case in cases for finding in run(case, implementation, LockstepDevice()).findings]


def is_rightly_blamed(findings, blame):
    return bool(findings) and all(
        finding.stage == FUSED_POOL and (blame in finding.detail or blame in str(finding.signature))
        for finding in findings
    )


def test_a_right_stand_in_passes_and_keeps_rings_behind_a_null_block(tree):
    implementation = load(f"vllm-kpool:{tree.wheel('vllm', '0.33.0', STAND_IN)}")
    assert implementation.name == "vllm 0.33.0 glm5next"
    assert [implementation.kept(case).rows for case in (CASES[0], case_of(steps=UNALIGNED))] == [8, 4]
    for case in CASES:
        outcome = run(case, implementation, LockstepDevice())
        assert outcome.findings == []
        assert outcome.stages == [FUSED_POOL] * len(STEPS)
    assert not schedules.run(CASES[0], implementation, LockstepDevice()).findings


@pytest.mark.parametrize("scheme", ["vllm-kpool", "vllm-kpool-sm90"])
def test_drawn_sessions_are_brought_inside_the_contract(tree, scheme):
    subject = InProcess(load(f"{scheme}:{tree.folder(STAND_IN)}"), LockstepDevice())
    drawn = [subject.narrow(case) for case in draw(sessions((FUSED_POOL,)), 9, 6)]
    outcomes = [subject.run(case) for case in drawn]
    assert sum(FUSED_POOL in outcome.stages for outcome in outcomes) >= 5
    assert any(turn.drafts for case in drawn for step in case.session.steps for turn in step.turns)
    if scheme == "vllm-kpool":
        assert not any(outcome.findings for outcome in outcomes)


def test_exponents_of_sm100_are_right_and_a_lost_one_is_found(tree):
    case = CASES[0].replace(cache={"scales": "ue8m0"})
    implementation = load(f"vllm-kpool-sm100:{tree.folder(SM100)}")
    outcome = run(case, implementation, LockstepDevice())
    assert outcome.findings == []
    assert outcome.stages == [FUSED_POOL] * len(STEPS)
    for other in CASES:
        assert FUSED_POOL not in run(other, implementation, LockstepDevice()).stages
    lost = SM100 | {KERNELS: SM100[KERNELS].replace("| (e << 24)", "")}
    wrong = load(f"vllm-kpool-sm100:{tree.__class__(tree.root / 'lost').folder(lost)}")
    assert is_rightly_blamed(found_in(wrong, [case]), "k_quant_cache")


@pytest.mark.parametrize("name", PLANTED)
def test_a_mistake_in_a_copy_is_found_and_blamed(tree, name):
    file, old, new, blame = PLANTED[name]
    assert STAND_IN[file].count(old) == 1
    changed = STAND_IN | {file: STAND_IN[file].replace(old, new)}
    assert is_rightly_blamed(found_in(load(f"vllm-kpool:{tree.folder(changed)}"), CASES[:1]), blame)


@pytest.mark.parametrize(
    ("scheme", "steps"), [("vllm-kpool-uncached", UNALIGNED), ("vllm-kpool-sm90", UNEQUAL)], ids=["chunks", "batches"]
)
def test_what_prefill_assumes_shows_where_it_does_not_hold(tree, scheme, steps):
    folder = tree.folder(STAND_IN)
    assert found_in(load(f"{scheme}:{folder}"), [case_of(steps=steps)])
    assert not found_in(load(f"vllm-kpool:{folder}"), [case_of(steps=steps)])


def test_what_lies_outside_is_left_alone_by_name(tree):
    implementation = load(f"vllm-kpool:{tree.folder(STAND_IN)}")
    outside = {
        "ratio is 4": case_of(ratio=8),
        "keys are pooled by a softmax": case_of(pooling="max"),
        "a page has 32 or 64 keys": CASES[0].replace(cache={"block_size": 16}),
        "whose format is e4m3fn": case_of("e4m3fnuz"),
        "drafts follow one token": case_of(steps=({"turns": (turn(0, 3, 1),)},)),
        "a ring has room for all drafts": case_of(steps=({"turns": (turn(0, 5),)}, {"turns": (turn(0, 1, 4),)})),
        "chunks start where groups do": case_of(steps=UNALIGNED),
    }
    for words, case in outside.items():
        assert words in run(case, implementation, LockstepDevice()).outside[FUSED_POOL]


def test_a_release_without_the_pooling_is_refused_in_one_sentence(tree):
    with pytest.raises(SourceError, match=r"has no vllm/models/glm5next/nvidia/sparse_indexer\.py"):
        load(f"vllm-kpool:{tree.folder({'vllm/__init__.py': ''})}")


@pytest.mark.wheel
@pytest.mark.parametrize("third_party", ["INDEXFUZZ_VLLM_WHEEL_0_33"], indirect=True)
class TestRealWheel:
    def test_0_33_passes_as_it_is_scheduled_by_default(self, third_party):
        assert found_in(load(f"vllm-kpool:{third_party}")) == []

    @pytest.mark.parametrize(("scheme", "steps"), [("vllm-kpool-uncached", UNALIGNED), ("vllm-kpool-sm90", UNEQUAL)])
    def test_0_33_loses_keys_where_its_prefill_assumes_too_much(self, third_party, scheme, steps):
        findings = found_in(load(f"{scheme}:{third_party}"), [case_of(steps=steps)])
        assert {finding.stage for finding in findings} == {FUSED_POOL}
