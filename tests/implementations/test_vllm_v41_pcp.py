"""vLLM's compressor of DeepSeek-V4.1 on two ranks: a stand-in and the real one, right and with mistakes in a copy."""

import zipfile

import pytest

from indexfuzz.core.stage_names import COMPRESS_NORM
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.generation.sessions import sessions
from indexfuzz.generation.stream import draw
from indexfuzz.implementations import load
from indexfuzz.oracles import schedules
from indexfuzz.oracles.sessions import run
from indexfuzz.subjects.in_process import InProcess
from tests.implementations.test_vllm_v41 import SINGLY, case_of, files, found_in, turn
from tests.implementations.vllm_v41_tree import COMPRESSOR, KERNELS, STAND_IN

STEPS = (
    {"turns": (turn(0, 7), turn(1, 5))},
    {"turns": (turn(0, 1), turn(1, 2)), "pad_tokens": 4},
    {"forks": ({"parent": 0, "child": 2},), "turns": (turn(2, 6), turn(1, 2)), "free": (0,)},
    {"turns": (turn(1, 32), turn(2, 1), turn(0, 3))},
)
CASE = case_of(session={"steps": STEPS})

PLANTED = {
    "the partner on another rank": (KERNELS, "if link >= 0:", "if link >= 100000:"),
    "what has a partner is kept": (COMPRESSOR, "if position % 2 == 0:", "if position % 2 == 1:"),
    "the first of a chunk": (COMPRESSOR, "last = starts[i + 1] - 1", "last = starts[i]"),
    "any row of a request": (COMPRESSOR, "of, position, _ in every if of == ring", "_, position, _ in every"),
    "rows of the ring": (KERNELS, "slot % ROWS * 1024", "slot % (ROWS - 1) * 1024"),
}


def test_a_right_stand_in_passes_on_two_ranks(tree):
    implementation = load(f"vllm-v41-pcp:{tree.folder(STAND_IN)}")
    assert implementation.name.endswith("deepseek_v41 NVIDIA, 2 ranks")
    for case in (CASE, SINGLY.replace(session={"steps": STEPS})):
        outcome = run(case, implementation, LockstepDevice())
        assert outcome.findings == []
        assert outcome.stages == [COMPRESS_NORM] * len(STEPS)
    assert not schedules.run(CASE, implementation, LockstepDevice()).findings


def test_drafts_are_outside(tree):
    implementation = load(f"vllm-v41-pcp:{tree.folder(STAND_IN)}")
    outcome = run(case_of(), implementation, LockstepDevice())
    assert "nothing is drafted" in outcome.outside[COMPRESS_NORM]
    subject = InProcess(implementation, LockstepDevice())
    for case in draw(sessions((COMPRESS_NORM,)), 9, 4):
        outcome = subject.run(subject.narrow(case))
        assert not outcome.findings
        assert COMPRESS_NORM in outcome.stages


@pytest.mark.parametrize("name", PLANTED)
def test_a_mistake_in_what_ranks_exchange_is_found_on_two_ranks_alone(tree, name):
    wrong = tree.folder(files(*PLANTED[name]))
    assert found_in(load(f"vllm-v41-pcp:{wrong}"), [CASE])
    assert not found_in(load(f"vllm-v41:{wrong}"), [CASE])


REAL = {
    "the partner on another rank": (KERNELS, "if prev_idx >= 0:", "if prev_idx > 100000:"),
    "what has a partner is kept": (COMPRESSOR, "(sorted_positions % 2 == 0)", "(sorted_positions % 2 == 1)"),
    "any row of a request": (COMPRESSOR, "newest[:-1] = blocks[:-1] != blocks[1:]", "newest[:-1] = True"),
    "rows as they are sorted": (COMPRESSOR, "ring_write_slots[order] = torch", "ring_write_slots[:] = torch"),
    "partners as they are sorted": (COMPRESSOR, "has_prev, order[found], -1)", "has_prev, found, -1)"),
}


@pytest.mark.wheel
@pytest.mark.parametrize("third_party", ["INDEXFUZZ_VLLM_WHEEL_0_33"], indirect=True)
class TestRealWheel:
    def test_0_33_passes(self, third_party):
        assert found_in(load(f"vllm-v41-pcp:{third_party}"), [CASE]) == []

    @pytest.mark.parametrize("name", REAL)
    def test_a_mistake_planted_in_a_copy_of_0_33_is_found(self, third_party, tree, name):
        file, old, new = REAL[name]
        with zipfile.ZipFile(third_party) as wheel:
            texts = {name: wheel.read(name).decode() for name in STAND_IN}
        assert texts[file].count(old) == 1
        texts[file] = texts[file].replace(old, new)
        assert {finding.stage for finding in found_in(load(f"vllm-v41-pcp:{tree.folder(texts)}"), [CASE])} == {
            COMPRESS_NORM
        }
