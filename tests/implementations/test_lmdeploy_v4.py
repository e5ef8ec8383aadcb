"""LMDeploy's compressor of keys: a stand-in of our own, right and with mistakes, and what the release gets wrong."""

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

KERNELS = "lmdeploy/pytorch/kernels/cuda/v4_compressor.py"
BACKEND = "lmdeploy/pytorch/backends/cuda/v4_compressor.py"

STAND_IN = {
    KERNELS: "score_kv = fill_compress_state = score_and_fill_state_decode = fill_compressed_kv = print\n",
    BACKEND: """\
    import torch
    from lmdeploy.pytorch.kernels.cuda.v4_compressor import (
        fill_compress_state, fill_compressed_kv, score_and_fill_state_decode, score_kv)

    class TritonV4CompressorImpl:
        def __init__(self, ratio, overlap, dim):
            self.ratio, self.overlap, self.dim = ratio, overlap, dim

        def score_and_fill_state(self, kv, score, bias, kv_state, score_state, ids, meta):
            made, window, rows = kv.new_zeros(len(kv), self.dim), (1 + self.overlap) * self.ratio, kv_state.shape[1]
            starts = meta.cu_q_seqlens.tolist()
            for b, (first, last) in enumerate(zip(starts, starts[1:])):
                context = int(meta.kv_seqlens[b]) - (last - first)
                for token in range(first, last):
                    position = context + token - first
                    kv_state[ids[b], position % rows] = kv[token]
                    score_state[ids[b], position % rows] = score[token] + bias[position % self.ratio]
                    if (position + 1) % self.ratio == 0:
                        at = [p for p in range(position - window + 1, position + 1) if p >= 0]
                        own = torch.tensor([p > position - self.ratio for p in at])[:, None]
                        kept = [p % rows for p in at]
                        x, s = kv_state[ids[b], kept], score_state[ids[b], kept]
                        x, s = (torch.where(own, t[:, -self.dim :], t[:, : self.dim]) for t in (x, s))
                        made[token] = (x * s.softmax(0)).sum(0)
            return made
    """,
}


def turn(request, new):
    return Turn(request=request, new=new).model_dump()


def case_of(*steps, overlap=True, ratio=4):
    session = {"node": COMPRESS, "ratio": ratio, "overlap": overlap, "steps": steps}
    return Case().replace(
        model={"head_dim": 128, "quant_group": 128},
        cache={"block_size": 2, "layout": "normal"},
        batch={"max_model_len": 300},
        session=session,
    )


CASE = case_of(
    {"turns": (turn(0, 7), turn(1, 4))},
    {"turns": (turn(1, 8), turn(0, 1)), "pad_tokens": 2},
    {"turns": (turn(0, 1), turn(1, 1)), "free": (0,)},
    {"turns": (turn(0, 9),)},
)
ALIGNED = case_of({"turns": (turn(0, 4),)}, {"turns": (turn(0, 4),)})
UNALIGNED = case_of({"turns": (turn(0, 3),)}, {"turns": (turn(0, 5),)})

PLANTED = {
    "bias by row": ("bias[position % self.ratio]", "bias[(token - first) % self.ratio]", "bound-exceeded"),
    "halves": ("t[:, -self.dim :], t[:, : self.dim]", "t[:, : self.dim], t[:, -self.dim :]", "bound-exceeded"),
    "the ring of request 0": ("kv_state[ids[b], kept]", "kv_state[ids[0], kept]", "bound-exceeded"),
}


def test_a_right_stand_in_passes(tree):
    implementation = load(f"lmdeploy-v4:{tree.wheel('lmdeploy', '0.16.0', STAND_IN)}")
    assert implementation.name == "lmdeploy 0.16.0 deepseek_v4"
    assert implementation.kept(CASE).rows == 8
    for case in (CASE, ALIGNED, UNALIGNED, case_of({"turns": (turn(0, 130),)}, overlap=False, ratio=128)):
        outcome = run(case, implementation, LockstepDevice())
        assert outcome.findings == []
        assert COMPRESS in outcome.stages


def test_a_release_in_which_prefill_has_a_function_of_its_own_passes(tree):
    prefill = """\
    from .utils import is_cuda

    def score_and_fill_state_prefill():
        return is_cuda()

    score_kv = fill_compress_state = score_and_fill_state_decode = fill_compressed_kv = print
    """
    calls = STAND_IN[BACKEND].replace("score_kv)", "score_and_fill_state_prefill)")
    calls = calls.replace("made, window", "assert score_and_fill_state_prefill() is False\n            made, window")
    implementation = load(f"lmdeploy-v4:{tree.wheel('lmdeploy', '0.18.0', {KERNELS: prefill, BACKEND: calls})}")
    assert run(CASE, implementation, LockstepDevice()).findings == []


@pytest.mark.parametrize("name", PLANTED)
def test_a_mistake_in_a_copy_is_found(tree, name):
    old, new, kind = PLANTED[name]
    assert STAND_IN[BACKEND].count(old) == 1
    files = STAND_IN | {BACKEND: STAND_IN[BACKEND].replace(old, new)}
    finding, *_ = run(CASE, load(f"lmdeploy-v4:{tree.folder(files)}"), LockstepDevice()).findings
    assert (finding.stage, finding.kind) == (COMPRESS, kind)


def test_drawn_sessions_are_brought_inside_the_contract(tree):
    subject = InProcess(load(f"lmdeploy-v4:{tree.folder(STAND_IN)}"), LockstepDevice())
    for case in draw(sessions((COMPRESS,)), 9, 6):
        inside = subject.narrow(case)
        assert not inside.session.max_drafts
        outcome = subject.run(inside)
        assert not outcome.findings
        assert COMPRESS in outcome.stages


def test_a_release_without_the_compressor_is_refused_in_one_sentence(tree):
    with pytest.raises(SourceError, match=r"has no lmdeploy/pytorch/"):
        load(f"lmdeploy-v4:{tree.folder({'lmdeploy/__init__.py': ''})}")


@pytest.mark.wheel
@pytest.mark.parametrize("third_party", ["INDEXFUZZ_LMDEPLOY"], indirect=True)
class TestRealWheel:
    def test_one_chunk_and_decode_are_right(self, third_party):
        decode = [{"turns": (turn(0, 1),)} for _ in range(9)]
        case = case_of({"turns": (turn(0, 11),)}, *decode)
        assert run(case, load(f"lmdeploy-v4:{third_party}"), LockstepDevice()).findings == []

    def test_0_16_takes_the_wrong_half_of_its_ring(self, third_party):
        (finding,) = run(ALIGNED, load(f"lmdeploy-v4:{third_party}"), LockstepDevice()).findings
        assert str(finding.signature) == "compress/bound-exceeded/keys"

    def test_0_16_reads_what_lies_before_a_chunk(self, third_party):
        finding, *_ = run(UNALIGNED, load(f"lmdeploy-v4:{third_party}"), LockstepDevice()).findings
        assert finding.kind == "out-of-bounds"
