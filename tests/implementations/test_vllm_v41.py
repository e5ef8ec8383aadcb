"""vLLM's compressor of DeepSeek-V4.1: a stand-in of our own and the real kernels, right and with mistakes in a copy."""

import zipfile

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.session import Turn
from indexfuzz.core.stage_names import COMPRESS_NORM
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.generation.sessions import sessions
from indexfuzz.generation.stream import draw
from indexfuzz.implementations import load
from indexfuzz.implementations.loading.source import SourceError
from indexfuzz.oracles import schedules
from indexfuzz.oracles.sessions import run
from indexfuzz.subjects.in_process import InProcess
from tests.implementations.vllm_v41_tree import COMPRESSOR, KERNELS, STAND_IN

GPUS = ("vllm-v41", "vllm-v41-amd")


def turn(request, new, drafts=0, accepted=0):
    return Turn(request=request, new=new, drafts=drafts, accepted=accepted).model_dump()


STEPS = (
    {"turns": (turn(0, 7), turn(1, 5))},
    {"turns": (turn(0, 1, 3, 1), turn(1, 1, 2)), "pad_tokens": 4},
    {"forks": ({"parent": 0, "child": 2},), "turns": (turn(2, 6), turn(1, 9)), "free": (0,)},
    {"turns": (turn(0, 20), turn(2, 1), turn(1, 1))},
)


def case_of(k="normal", ratio=2, **parts):
    session = {"node": COMPRESS_NORM, "ratio": ratio, "steps": STEPS}
    return (
        Case()
        .replace(
            model={"head_dim": 512, "quant_group": 512},
            cache={"block_size": 32, "layout": "normal", "page_pad": 64},
            batch={"max_model_len": 100},
            values={"k": k},
            session=session,
        )
        .replace(**parts)
    )


CASES = (case_of(), case_of("outlier"))
SINGLY = case_of(ratio=1)

NO_PLACE = "is no place of a key, and was written"

PLANTED = {
    "sum of squares": (KERNELS, "0) / 512 + EPS", "0) + EPS", "compress or rms_norm: "),
    "no weight": (KERNELS, " * tl.load(weight + d)", "", "rms_norm: the weight is left out: "),
    "rounded before": (
        KERNELS,
        "factor = tl",
        "pooled = pooled.to(tl.bfloat16).to(tl.float32)\n        factor = tl",
        "compress: keys are rounded to bf16 before they are normed: ",
    ),
    "the other half": (KERNELS, "(both + 512), 0), 0), token", "(both + 256), 0), 0), token", "compress or rms_norm: "),
    "a ring of one row less": (
        KERNELS,
        "(position - 1) % ROWS",
        "(position - 1) % (ROWS - 1)",
        "compress or rms_norm: ",
    ),
    "kept from the start": (
        KERNELS,
        "tl.range(tl.maximum(end - ROWS, start), end)",
        "tl.range(start, start + 1)",
        "unini",
    ),
    "pairs of two requests": (
        KERNELS,
        "if token == tl.load(starts + tl.load(owners + token))",
        "if token == 0",
        NO_PLACE,
    ),
    "padding is made": (COMPRESSOR, "tl.full((), -1, tl.int64)", "tl.full((), 8, tl.int64)", NO_PLACE),
    "the ring of request 0": (COMPRESSOR, "tl.load(owners + token) * table_row", "0", "race/state"),
}


def files(file, old, new):
    assert STAND_IN[file].count(old) == 1
    return STAND_IN | {file: STAND_IN[file].replace(old, new)}


def found_in(implementation, cases=CASES):
    return [finding for case in cases for finding in run(case, implementation, LockstepDevice()).findings]


@pytest.mark.parametrize("gpu", GPUS)
def test_a_right_stand_in_passes_and_is_served_on_rings(tree, gpu):
    implementation = load(f"{gpu}:{tree.wheel('vllm', '0.33.0', STAND_IN)}")
    assert implementation.name == f"vllm 0.33.0 deepseek_v41 {'AMD' if 'amd' in gpu else 'NVIDIA'}"
    assert implementation.kept(CASES[0]).rows == 8
    assert implementation.kept(case_of(session={"steps": ({"turns": (turn(0, 1, 7),)},)})).rows == 16
    for case in (*CASES, SINGLY):
        outcome = run(case, implementation, LockstepDevice())
        assert outcome.findings == []
        assert outcome.stages == [COMPRESS_NORM] * len(STEPS)
    for case in (CASES[0], SINGLY):
        assert not schedules.run(case, implementation, LockstepDevice()).findings


def test_drawn_sessions_are_brought_inside_the_contract(tree):
    subject = InProcess(load(f"vllm-v41:{tree.folder(STAND_IN)}"), LockstepDevice())
    for case in draw(sessions((COMPRESS_NORM,)), 9, 5):
        outcome = subject.run(subject.narrow(case))
        assert not outcome.findings
        assert COMPRESS_NORM in outcome.stages


@pytest.mark.parametrize("name", PLANTED)
def test_a_mistake_in_a_copy_is_found_and_blamed(tree, name):
    file, old, new, words = PLANTED[name]
    findings = found_in(load(f"vllm-v41:{tree.folder(files(file, old, new))}"), CASES[:1])
    assert findings
    assert all(words in f"{finding.signature} {finding.detail}" for finding in findings)
    assert {finding.stage for finding in findings} == {COMPRESS_NORM}


PLANTED_SINGLY = {
    "padding is normed": ("tl.load(slots + token) >= 0", "tl.load(slots + token) >= -1", NO_PLACE),
    "the token before": (
        "raw + token * ROW + tl",
        "raw + tl.maximum(token - 1, 0) * ROW + tl",
        "compress or rms_norm: ",
    ),
    "as if of pairs": ("raw + token * ROW + tl", "raw + token * ROW * 2 + tl", "out-of-bounds"),
}


@pytest.mark.parametrize("name", PLANTED_SINGLY)
def test_a_mistake_with_single_tokens_is_found_and_blamed(tree, name):
    old, new, words = PLANTED_SINGLY[name]
    implementation = load(f"vllm-v41:{tree.folder(files(KERNELS, old, new))}")
    assert not found_in(implementation, CASES[:1])
    (finding,) = found_in(implementation, [SINGLY])
    assert words in f"{finding.signature} {finding.detail}"


def test_a_mistake_where_tokens_are_read_one_by_one_is_found_on_amd_alone(tree):
    wrong = tree.folder(files(KERNELS, "exp(score - new_score)", "exp(new_score - score)"))
    assert not found_in(load(f"vllm-v41:{wrong}"), CASES[:1])
    assert found_in(load(f"vllm-v41-amd:{wrong}"), CASES[:1])


def test_what_lies_outside_is_left_alone_by_name(tree):
    implementation = load(f"vllm-v41:{tree.folder(STAND_IN)}")
    outside = {
        "ratio is 1 or 2": case_of(ratio=4),
        "a latent has 512 dims": case_of(model={"head_dim": 128, "quant_group": 128}),
        "latents are dense": case_of(memory={"k_pad": 16}),
        "rings start at multiples of 64 bytes": case_of(cache={"page_pad": 4}),
    }
    for words, case in outside.items():
        outcome = run(case, implementation, LockstepDevice())
        assert COMPRESS_NORM not in outcome.stages
        assert words in outcome.outside[COMPRESS_NORM]


def test_a_release_without_the_compressor_is_refused_in_one_sentence(tree):
    with pytest.raises(SourceError, match=r"has no vllm/models/deepseek_v41/compressor\.py"):
        load(f"vllm-v41:{tree.folder({'vllm/__init__.py': ''})}")


OWN_START = "        if t == tl.load(query_start_loc + tl.load(req_ids + t)):"

REAL = {
    "the norm's mean of 256": ("tl.sum(pooled * pooled, 0) / 512", "tl.sum(pooled * pooled, 0) / 256"),
    "pairs of one request and the next": (OWN_START, "        if t == 0:"),
    "the ring's row after": ("((position - 1) % STATE_BLOCK)", "((position + 1) % STATE_BLOCK)"),
    "every other dim of a single token": (
        "+ t.to(tl.int64) * RAW_STRIDE + d)",
        "+ t.to(tl.int64) * RAW_STRIDE + d // 2 * 2)",
    ),
    "the first rows are kept": ("token = end - num_rows + k", "token = start + k"),
}


@pytest.mark.wheel
@pytest.mark.parametrize("third_party", ["INDEXFUZZ_VLLM_WHEEL_0_33"], indirect=True)
class TestRealWheel:
    @pytest.mark.parametrize("gpu", GPUS)
    def test_0_33_passes(self, third_party, gpu):
        assert found_in(load(f"{gpu}:{third_party}"), (*CASES, SINGLY)) == []

    @pytest.mark.parametrize("name", REAL)
    def test_a_mistake_planted_in_a_copy_of_0_33_is_found(self, third_party, tree, name):
        old, new = REAL[name]
        with zipfile.ZipFile(third_party) as wheel:
            texts = {name: wheel.read(name).decode() for name in STAND_IN}
        assert texts[KERNELS].count(old) == 1
        texts[KERNELS] = texts[KERNELS].replace(old, new)
        findings = found_in(load(f"vllm-v41:{tree.folder(texts)}"), (CASES[0], SINGLY))
        assert {finding.stage for finding in findings} == {COMPRESS_NORM}
