"""The loop: deterministic, finds what is planted, survives what is not reproducible, counts what is known."""

import contextlib
import math
import os
import signal

import pytest

from indexfuzz.campaign.chunk import MOST_BEHIND, Chunk, known_to
from indexfuzz.campaign.drawing import cases_of_chunk
from indexfuzz.campaign.events import CaseRun, Found, Seen
from indexfuzz.campaign.loop import Campaign, run, run_whole
from indexfuzz.campaign.settings import Settings
from indexfuzz.core import interrupts
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.signature import Signature
from indexfuzz.oracles import schedule
from indexfuzz.oracles.schedule import ORACLES
from indexfuzz.reference import mqa_logits, quant
from indexfuzz.subjects.in_process import InProcess


def broken(q_fp8, k_fp8, k_scale, weights, ks, ke, logits):
    mqa_logits.mqa_logits(q_fp8, k_fp8, k_scale, weights, ks, ke, logits)
    logits[..., -1] = 0.0


def ids(settings):
    seen = []
    run(settings, lambda event: seen.append(event.outcome.case.id) if isinstance(event, CaseRun) else None)
    return seen


def test_the_same_seed_gives_the_same_cases(reference_with, pytorch_device):
    first = Settings(InProcess(reference_with(), pytorch_device), cases=12, seed=5)
    assert ids(first) == ids(first)
    assert len(set(ids(first))) == 12


def test_shards_of_a_seed_have_no_case_in_common(reference_with, pytorch_device):
    subject = InProcess(reference_with(), pytorch_device)
    shards = [Settings(subject, seed=5, shard=(number, 4)) for number in range(1, 5)]
    drawn = [one.case.id for wanted in shards for chunk in range(8) for one in cases_of_chunk(wanted, Chunk(chunk))]
    assert len(set(drawn)) == len(drawn) > 300
    again = Settings(subject, seed=5, shard=(3, 4))
    assert [one.case.id for one in cases_of_chunk(again, Chunk(1))] == [
        one.case.id for one in cases_of_chunk(shards[2], Chunk(1))
    ]


def test_a_planted_bug_is_found_made_small_and_reported_once(reference_with, pytorch_device):
    events = []
    subject = InProcess(reference_with(prefill_logits=broken), pytorch_device)
    wanted = Settings(subject, cases=40, seed=1, minimise_seconds=math.inf)
    summary = run(wanted, events.append)
    signatures = [str(found.finding.signature) for found in summary.findings]
    assert signatures[0] in ("prefill_logits/bound-exceeded/logits", "prefill_logits/mask-mismatch/logits")
    assert len(signatures) == len(set(signatures))
    assert all(len(found.case.lengths) == 1 for found in summary.findings)
    assert sum(isinstance(event, Found) for event in events) == len(summary.findings)
    assert any(isinstance(event, Seen) for event in events)


def test_known_signatures_are_counted_not_reported(reference_with, pytorch_device):
    known = frozenset(Signature("prefill_logits", kind, "logits") for kind in ("bound-exceeded", "mask-mismatch"))
    subject = InProcess(reference_with(prefill_logits=broken), pytorch_device)
    summary = run(Settings(subject, cases=25, seed=1, known=known))
    assert summary.findings == []
    assert sum(summary.known.values()) > 0
    assert summary.cases == 25


def test_a_broken_relation_says_nothing_new_of_a_stage_that_is_known_to_be_wrong(
    reference_with, pytorch_device, monkeypatch
):
    def broken_relations(case, *_):
        findings = [Finding(stage, "metamorphic/next-n", "logits", "differs") for stage in ("gather", "paged_logits")]
        return Outcome(case, findings=findings)

    monkeypatch.setattr(schedule, "run", broken_relations)
    monkeypatch.setattr(schedule, "ask", broken_relations)
    subject = InProcess(reference_with(), pytorch_device)
    known = frozenset(map(Signature.parse, ("paged_logits/bound-exceeded/logits", "gather/metamorphic/layout/k_fp8")))
    summary = run(Settings(subject, cases=3, seed=1, known=known, minimise_seconds=0.0))
    assert [str(found.finding.signature) for found in summary.findings] == ["gather/metamorphic/next-n/logits"]
    assert summary.known[Signature("paged_logits", "metamorphic/next-n", "logits")] >= 3


def test_what_happens_once_is_called_nondeterministic(reference_with, pytorch_device):
    calls = []

    def moody(q, weights, **options):
        calls.append(1)
        return quant.q_quant(q, weights * (2 if len(calls) == 5 else 1) + (len(calls) == 5), **options)

    summary = run(Settings(InProcess(reference_with(q_quant=moody), pytorch_device), cases=20, seed=1))
    assert [found.finding.kind for found in summary.findings] == ["nondeterministic"]


def test_an_interrupt_ends_the_campaign_with_its_summary(reference_with, pytorch_device):
    def interrupt(**_):
        raise KeyboardInterrupt

    wanted = Settings(InProcess(reference_with(rope=interrupt), pytorch_device), cases=50, seed=1)
    summary = run(wanted)
    assert summary.interrupted == signal.SIGINT
    assert summary.cases < 50
    with pytest.raises(interrupts.Interrupted, match="SIGINT"):
        run_whole(wanted, lambda _event: None)


def test_a_signal_of_the_past_ends_no_campaign(reference_with, pytorch_device):
    with contextlib.suppress(interrupts.Interrupted), interrupts.listening():
        os.kill(os.getpid(), signal.SIGTERM)
    wanted = Settings(InProcess(reference_with(), pytorch_device), cases=3, seed=1)
    assert run_whole(wanted, lambda _event: None).cases == 3


def test_another_exception_is_not_swallowed(reference_with, pytorch_device, monkeypatch):
    monkeypatch.setattr("indexfuzz.oracles.schedule.run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(Settings(InProcess(reference_with(), pytorch_device), cases=3))


class ManyValues:
    """A device whose shapes are dear: each is worth three sets of values."""

    values_per_shape = 3

    def __init__(self, device):
        self._device = device

    def __getattr__(self, name):
        return getattr(self._device, name)


def test_a_shape_that_costs_a_compilation_is_tried_with_several_values(reference_with, pytorch_device):
    seen = []
    subject = InProcess(reference_with(), ManyValues(pytorch_device))
    run(Settings(subject, cases=9, seed=5), lambda event: seen.append(event.outcome.case))
    assert len({case.id for case in seen}) == 9
    for first, *others in (seen[:3], seen[3:6], seen[6:]):
        assert len({case.values.seed for case in (first, *others)}) == 3
        same = {"batch": first.batch, "values": first.values}
        assert all(case.model_copy(update=same) == first for case in others)
    assert len({case.model for case in seen}) == 3


def test_a_shape_that_costs_a_compilation_is_tried_with_the_requests_of_others(reference_with, pytorch_device):
    seen = []
    subject = InProcess(reference_with(), ManyValues(pytorch_device))
    run(Settings(subject, cases=30, seed=5), lambda event: seen.append(event.outcome.case))
    batches = [case.batch for case in seen]
    assert len(set(batches)) < len(batches)
    assert sum(first != second for first, second in zip(batches[::3], batches[1::3], strict=True)) > 3


def test_values_of_one_shape_are_asked_the_same_questions_and_shapes_are_not(reference_with, pytorch_device):
    seen = []
    subject = InProcess(reference_with(), ManyValues(pytorch_device))
    run(Settings(subject, cases=60, seed=5), lambda event: seen.append(event.outcome.case))
    asked = [{oracle.name for oracle in ORACLES if oracle.is_asked(case)} for case in seen]
    assert asked[::3] == asked[1::3] == asked[2::3]
    assert len(set(map(frozenset, asked))) > 5


@pytest.mark.parametrize(("make", "at_once"), [(lambda device: device, 2), (ManyValues, 32)])
def test_processes_need_not_wait_for_each_other_when_a_campaign_begins(reference_with, pytorch_device, make, at_once):
    campaign = Campaign(Settings(InProcess(reference_with(), make(pytorch_device)), seed=5), lambda _: None)
    chunks = [campaign.chunk(number) for number in range(at_once + 2)]
    assert chunks == [*(Chunk(number) for number in range(at_once + 1)), None]
    campaign.end_chunk()
    assert campaign.chunk(at_once + 1) is not None


@pytest.mark.parametrize("is_long", [False, True])
def test_what_a_chunk_knows_lags_behind_by_no_more_than_so_many_chunks(is_long):
    behind = [number - known_to(number, is_long=is_long) for number in range(500)]
    assert behind == sorted(behind)
    assert behind[-1] == MOST_BEHIND


def test_a_bug_in_other_values_is_found(reference_with, pytorch_device):
    sums = []

    def right_once(q, weights, **options):
        sums.append(q.double().sum().item())
        q_fp8, folded = quant.q_quant(q, weights, **options)
        return q_fp8, folded + float(sums[-1] != sums[0])

    subject = InProcess(reference_with(q_quant=right_once), ManyValues(pytorch_device))
    summary = run(Settings(subject, cases=30, seed=5, minimise_seconds=math.inf))
    assert "q_quant/bound-exceeded/q_weights" in [str(found.finding.signature) for found in summary.findings]


def test_a_device_without_the_memory_for_a_case_says_nothing_about_a_kernel(reference_with, pytorch_device):
    class Full(ManyValues):
        values_per_shape = 1

        def lacks_memory(self, error):
            return "out of memory" in str(error)

    def fail(**_):
        raise RuntimeError("out of memory: tried to allocate 9 GiB")

    def fail_until_interrupted(**_):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        fail()

    calls = []
    summary = run(Settings(InProcess(reference_with(q_quant=fail_until_interrupted), Full(pytorch_device)), seed=5))
    assert summary.findings == []
    assert dict(summary.unsupported) == {"pytorch: not enough memory for the case": 3}
    subject = InProcess(reference_with(q_quant=fail), pytorch_device)
    summary = run(Settings(subject, cases=3, seed=5, minimise_seconds=0.0))
    assert [str(found.finding.signature) for found in summary.findings] == ["q_quant/crash/RuntimeError"]
    assert not summary.unsupported


def test_a_finding_that_shows_again_ends_with_what_is_seen_elsewhere(reference_with, pytorch_device):
    def forget(**given):
        mqa_logits.mqa_logits(**given)
        given["logits"].zero_()

    subject = InProcess(reference_with(prefill_logits=forget), pytorch_device)
    for confirmed, told in ((True, True), (False, False)):
        found = []
        run(
            Settings(
                subject,
                cases=20,
                seed=5,
                first_only=True,
                minimise_seconds=math.inf,
                confirm=lambda *_, confirmed=confirmed: confirmed,
                elsewhere=lambda case: f"{len(case.batch.prefill)} requests are clean in lockstep",
            ),
            found.append,
        )
        (last,) = [event for event in found if isinstance(event, Found)]
        assert last.finding.detail.endswith("; 1 requests are clean in lockstep") is told
