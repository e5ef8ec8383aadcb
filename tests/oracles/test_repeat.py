"""Repeated launches: silent on what is deterministic, and every planted dependence on chance or garbage is found."""

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.builtin import builtin
from indexfuzz.oracles.repetition import run
from indexfuzz.reference import gather as gatherer
from indexfuzz.reference import mqa_logits, quant
from indexfuzz.samples.step import Step

CASE = Case().replace(
    model={"num_heads": 2, "head_dim": 32, "rope_dim": 16, "quant_group": 32},
    cache={"block_size": 16, "pages": "permuted", "spare_blocks": 2, "page_pad": 132},
    batch={
        "decode": (40, 3, 17),
        "prefill": ({"length": 40, "new": 7}, {"length": 9, "new": 9}),
        "next_n": 2,
        "max_model_len": 60,
        "pad_tokens": 2,
        "gather_pad": 2,
    },
    memory={"k_pad": 16},
)
VARIANTS = [
    CASE,
    CASE.replace(rope={"mode": "inplace"}, cache={"layout": "normal"}, model={"fp8": "e4m3fnuz", "scale_fmt": "fp32"}),
    CASE.replace(cache={"block_size": 1, "page_pad": 1 << 30}, batch={"decode": (3,), "prefill": ()}),
]


def signatures(outcome):
    return [str(finding.signature) for finding in outcome.findings]


@pytest.mark.parametrize("case", VARIANTS)
def test_the_reference_and_the_kernels_repeat_themselves(case, reference_with, pytorch_device):
    assert signatures(run(case, reference_with(), pytorch_device)) == []
    outcome = run(case, builtin(), LockstepDevice())
    assert signatures(outcome) == []
    assert "paged_logits" in outcome.stages


def test_a_result_that_changes_from_launch_to_launch_is_found(reference_with, pytorch_device):
    launched = []

    def third_time_unlucky(*, logits, **rest):
        mqa_logits.mqa_logits(logits=logits, **rest)
        launched.append(True)
        if len(launched) == 3:
            logits[1, 0] = torch.nextafter(logits[1, 0], torch.tensor(9e9))

    (found,) = run(CASE, reference_with(prefill_logits=third_time_unlucky), pytorch_device).findings
    assert str(found.signature) == "prefill_logits/nondeterministic/logits"
    assert found.index == (1, 0)


def test_a_device_says_how_often_a_launch_is_repeated(reference_with, pytorch_device, monkeypatch):
    launched = []

    def once_in_twenty(*, logits, **rest):
        mqa_logits.mqa_logits(logits=logits, **rest)
        launched.append(True)
        if len(launched) == 20:
            logits[1, 0] = torch.nextafter(logits[1, 0], torch.tensor(9e9))

    for repeats, shown in ((3, []), (20, ["prefill_logits/nondeterministic/logits"])):
        launched.clear()
        monkeypatch.setattr(type(pytorch_device), "repeats", repeats)
        assert signatures(run(CASE, reference_with(prefill_logits=once_in_twenty), pytorch_device)) == shown


def test_an_output_that_is_partly_unwritten_is_found(reference_with, pytorch_device):
    def last_row_left_out(*, k_scale, **rest):
        fresh = k_scale.clone()
        gatherer.gather(k_scale=fresh, **rest)
        k_scale[:-1] = fresh[:-1]

    assert signatures(run(CASE, reference_with(gather=last_row_left_out), pytorch_device)) == [
        "gather/uninitialised/k_scale"
    ]


def test_an_allocation_that_is_partly_unwritten_is_found(reference_with, pytorch_device):
    def last_head_left_out(*, q, weights, **options):
        q_fp8, fresh = quant.q_quant(q, weights, **options)
        q_weights = torch.empty_like(fresh)
        q_weights[:, :-1] = fresh[:, :-1]
        return q_fp8, q_weights

    (found,) = run(CASE, reference_with(q_quant=last_head_left_out), pytorch_device).findings
    assert str(found.signature) == "q_quant/uninitialised/q_weights"
    assert found.index == (0, 1)


def test_reading_beyond_an_input_is_found(reference_with, pytorch_device):
    """The gap between rows counts only if it holds a number: in the first launch it holds NaN, which is lost here."""

    def sums_the_gap(*, q, weights, **options):
        wide = weights.as_strided((weights.shape[0], weights.shape[1] + 1), weights.stride())
        return quant.q_quant(q, weights + wide[:, -1:].nan_to_num(0.0), **options)

    case = CASE.replace(memory={"weights_pad": 1})
    assert signatures(run(case, reference_with(q_quant=sums_the_gap), pytorch_device)) == [
        "q_quant/uninitialised/q_weights"
    ]


def test_reading_slots_that_nobody_owns_is_found(reference_with, pytorch_device):
    def reads_a_whole_page(*, cache, k_scale, **rest):
        gatherer.gather(cache=cache, k_scale=k_scale, **rest)
        k_scale *= 1 + cache.flatten(1)[:, -8:].contiguous().view(torch.float32).nan_to_num(0.0).amax()

    assert signatures(run(CASE, reference_with(gather=reads_a_whole_page), pytorch_device)) == [
        "gather/uninitialised/k_scale"
    ]


def test_nothing_is_left_behind(reference_with, pytorch_device, monkeypatch):
    steps = []
    made = Step.output
    monkeypatch.setattr(Step, "output", lambda self, *a, **k: (steps.append(self), made(self, *a, **k))[1])
    run(CASE, reference_with(), pytorch_device)
    assert all(buffer.first_change(payload_may_change=False) is None for s in steps for buffer in s.buffers.values())


def test_a_stage_that_fails_by_itself_is_left_to_others(reference_with, pytorch_device):
    def fails(**_):
        raise RuntimeError("boom")

    outcome = run(CASE, reference_with(gather=fails), pytorch_device)
    assert outcome.findings == []
    assert "gather" not in outcome.stages
