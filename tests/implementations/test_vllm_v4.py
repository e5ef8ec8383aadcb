"""vLLM's compressor of index keys: a stand-in of our own, and the real kernels, right and with mistakes in a copy."""

import zipfile

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
from indexfuzz.triage.minimize import minimise
from tests.implementations.vllm_v4_tree import (
    COMPRESSOR,
    KERNELS,
    METADATA,
    MXFP4,
    PACKING,
    SAVE,
    SLOTS,
    SM100,
    STAND_IN,
)


def turn(request, new, drafts=0, accepted=0):
    return Turn(request=request, new=new, drafts=drafts, accepted=accepted).model_dump()


STEPS = (
    {"turns": (turn(0, 7), turn(1, 5))},
    {"turns": (turn(0, 1, 3, 1), turn(1, 1, 2)), "pad_tokens": 2},
    {"forks": ({"parent": 0, "child": 2},), "turns": (turn(2, 6), turn(1, 9)), "free": (0,)},
    {"turns": (turn(0, 20), turn(2, 1))},
)


def case_of(fp8="e4m3fn", steps=STEPS, k="normal", **session):
    session = {"node": FUSED_COMPRESS, "ratio": 4, "overlap": True, "steps": steps} | session
    return Case().replace(
        model={"head_dim": 128, "quant_group": 128, "rope_dim": 64, "fp8": fp8},
        cache={"block_size": 64, "layout": "normal", "page_pad": 4},
        rope={"style": "interleaved", "placement": "last"},
        batch={"max_model_len": 100},
        values={"k": k},
        session=session,
    )


WRITES = "k_quant_cache: "

CASES = (case_of(), case_of("e4m3fnuz"), case_of(k="outlier"))

PLANTED = {
    "angles of the last token": (
        KERNELS,
        "angles + position // RATIO * RATIO * angles_row",
        "angles + position * angles_row",
        "rope: angles are those of the last token of a group",
    ),
    "the weight is left out": (KERNELS, "* tl.load(weight + dim)", "", "rms_norm: the weight is left out"),
    "halves": (KERNELS, "tl.where(row < RATIO, 0, D)", "tl.where(row < RATIO, D, 0)", "compress or rms_norm"),
    "not rounded": (KERNELS, ".to(tl.bfloat16).to(tl.float32)", "", "rope: its result is kept in fp32"),
    "the table of request 0": (KERNELS, "tl.load(owners + token) * table_row", "0", "compress"),
    "bias by row": (SAVE, "tl.load(positions_ptr + token) % RATIO", "token % RATIO", "compress"),
    "padding is saved": (SAVE, "if slot >= 0:", "if slot >= -1:", "out-of-bounds"),
    "scales of the neighbour": (
        KERNELS,
        "(start + ROWS * D) // 4 + place",
        "(start + ROWS * D) // 4 + place + 1",
        "k_qu",
    ),
    "one key more": (METADATA, "(positions + 1) // ratio", "positions // ratio + 1", "code-mismatch/visible"),
    "slots of tokens": (SLOTS, "key[due] % size", "positions[due] % size", "code-mismatch/slot_mapping"),
}


def files(file, old, new):
    assert STAND_IN[file].count(old) == 1
    return STAND_IN | {file: STAND_IN[file].replace(old, new)}


def found_in(implementation, cases=CASES):
    return [finding for case in cases for finding in run(case, implementation, LockstepDevice()).findings]


def is_rightly_blamed(findings, blame):
    """Whether the node, and a known mistake if there is one, is named; or the kind is that."""
    return bool(findings) and all(
        finding.stage == FUSED_COMPRESS and (blame in finding.detail or blame in str(finding.signature))
        for finding in findings
    )


def test_a_right_stand_in_passes_and_is_served_on_pages(tree):
    implementation = load(f"vllm-v4:{tree.wheel('vllm', '0.33.0', STAND_IN)}")
    assert implementation.name == "vllm 0.33.0 deepseek_v4"
    assert implementation.kept(CASES[0]).page == 4
    for case in CASES:
        outcome = run(case, implementation, LockstepDevice())
        assert outcome.findings == []
        assert outcome.stages == [FUSED_COMPRESS] * len(STEPS)
        assert FUSED_COMPRESS in outcome.widths
    assert not schedules.run(CASES[0], implementation, LockstepDevice()).findings


def test_drawn_sessions_are_brought_inside_the_contract(tree):
    subject = InProcess(load(f"vllm-v4:{tree.folder(STAND_IN)}"), LockstepDevice())
    for case in draw(sessions((FUSED_COMPRESS,)), 9, 5):
        outcome = subject.run(subject.narrow(case))
        assert not outcome.findings
        assert FUSED_COMPRESS in outcome.stages


@pytest.mark.parametrize("name", PLANTED)
def test_a_mistake_in_a_copy_is_found_and_blamed(tree, name):
    file, old, new, blame = PLANTED[name]
    findings = found_in(load(f"vllm-v4:{tree.folder(files(file, old, new))}"), CASES[:1])
    assert is_rightly_blamed(findings, blame)


FORMS = {
    "vllm-v4-sm100": (SM100, {"scales": "ue8m0"}, {}),
    "vllm-v4-mxfp4": (MXFP4, {"scales": "mxfp4"}, {"quant_group": 32}),
}


@pytest.mark.parametrize("name", FORMS)
def test_other_forms_of_keys_pass_and_no_others_are_taken(tree, name):
    files, cache, model = FORMS[name]
    implementation = load(f"{name}:{tree.folder(files)}")
    for case in (case_of(), case_of(k="outlier")):
        outcome = run(case.replace(cache=cache, model=model), implementation, LockstepDevice())
        assert outcome.findings == []
        assert outcome.stages == [FUSED_COMPRESS] * len(STEPS)
        assert FUSED_COMPRESS not in run(case, implementation, LockstepDevice()).stages
    subject = InProcess(implementation, LockstepDevice())
    for case in draw(sessions((FUSED_COMPRESS,)), 9, 5):
        outcome = subject.run(subject.narrow(case))
        assert not outcome.findings
        assert FUSED_COMPRESS in outcome.stages


IN_FORMS = {
    "an exponent is lost": ("vllm-v4-sm100", KERNELS, "| (e << 24)", ""),
    "exponents one too large": ("vllm-v4-sm100", KERNELS, ">> 23", "+ (1 << 23) >> 23"),
    "halves of a byte": ("vllm-v4-mxfp4", PACKING, "code(low) | (code(high) << 4)", "code(high) | (code(low) << 4)"),
    "5 as 6": ("vllm-v4-mxfp4", PACKING, "(size > 5.0)", "(size > 4.0)"),
    "the floor of FP8": ("vllm-v4-mxfp4", KERNELS, "6.0 * 2**-126", "1e-4"),
}


BLAMED = {"halves of a byte": "dim 0 is dim 1 of the reference", "5 as 6": "compress or rms_norm"}
"""Where all dims are wrong nothing tells the insertion from what stands before it."""


@pytest.mark.parametrize("name", IN_FORMS)
def test_a_mistake_in_a_form_of_keys_is_found_and_blamed(tree, name):
    spec, file, old, new = IN_FORMS[name]
    right, cache, model = FORMS[spec]
    assert right[file].count(old) == 1
    wrong = load(f"{spec}:{tree.folder(right | {file: right[file].replace(old, new)})}")
    cases = [case_of(k=k).replace(cache=cache, model=model) for k in ("normal", "tied", "zeros")]
    assert is_rightly_blamed(found_in(wrong, cases), BLAMED.get(name, "k_quant_cache"))


def test_a_finding_is_made_small_on_pages_too(tree):
    file, old, new, _ = PLANTED["bias by row"]
    subject = InProcess(load(f"vllm-v4:{tree.folder(files(file, old, new))}"), LockstepDevice())
    (finding,) = subject.run(CASES[0]).findings
    smaller, _ = minimise(CASES[0], subject, finding.signature)
    assert len(smaller.session.steps) <= 2
    assert sum(turn.new for step in smaller.session.steps for turn in step.turns) <= 6


def test_what_lies_outside_is_left_alone_by_name(tree):
    implementation = load(f"vllm-v4:{tree.folder(STAND_IN)}")
    outside = {
        "ratio is 4": case_of(ratio=8),
        "a key is also made of the group before": case_of(overlap=False),
        "the last dims are rotated": CASES[0].replace(rope={"placement": "first"}),
        "a page has 64 keys": CASES[0].replace(cache={"block_size": 16}),
    }
    for words, case in outside.items():
        outcome = run(case, implementation, LockstepDevice())
        assert FUSED_COMPRESS not in outcome.stages
        assert words in outcome.outside[FUSED_COMPRESS]


def test_a_release_without_the_compressor_is_refused_in_one_sentence(tree):
    with pytest.raises(SourceError, match=r"has no vllm/models/deepseek_v4/compressor\.py"):
        load(f"vllm-v4:{tree.folder({'vllm/__init__.py': ''})}")


REAL = {
    "angles of the last token": (
        KERNELS,
        "(position // COMPRESS_RATIO) * COMPRESS_RATIO",
        "position",
        "rope: angles are those of the last token of a group",
    ),
    "the bias is left out": (SAVE, "score + ape,", "score,", "compress"),
    "padding is saved": (SAVE, "if slot_id < 0:", "if slot_id < -1:", "out-of-bounds"),
    "one key more": (METADATA, "global_ctx // COMPRESS_RATIO", "(global_ctx + 1) // COMPRESS_RATIO", "visible"),
}


@pytest.mark.wheel
@pytest.mark.parametrize("third_party", ["INDEXFUZZ_VLLM_WHEEL_0_33"], indirect=True)
class TestRealWheel:
    def test_0_33_passes_where_the_format_is_e4m3fn(self, third_party):
        assert found_in(load(f"vllm-v4:{third_party}"), [case for case in CASES if case.model.fp8 == "e4m3fn"]) == []

    def test_0_33_writes_e4m3fn_on_gfx942_too(self, third_party):
        findings = found_in(load(f"vllm-v4:{third_party}"), [case_of("e4m3fnuz")])
        assert is_rightly_blamed(findings, "k_quant_cache: codes and scales are those of e4m3fn, e4m3fnuz is asked for")

    @pytest.mark.parametrize("name", REAL)
    def test_a_mistake_planted_in_a_copy_of_0_33_is_found_and_blamed(self, third_party, tree, name):
        file, old, new, blame = REAL[name]
        with zipfile.ZipFile(third_party) as wheel:
            texts = {name: wheel.read(name).decode() for name in STAND_IN}
        assert old in texts[file]
        texts[file] = texts[file].replace(old, new)
        assert is_rightly_blamed(found_in(load(f"vllm-v4:{tree.folder(texts)}"), CASES[:1]), blame)


def test_the_files_are_those_that_the_adapter_reads(tree):
    for file in (COMPRESSOR, KERNELS, SAVE, SLOTS, METADATA):
        rest = {name: text for name, text in STAND_IN.items() if name != file}
        with pytest.raises(SourceError, match=f"has no {file}"):
            load(f"vllm-v4:{tree.__class__(tree.root / file.replace('/', '-')).folder(rest)}")
