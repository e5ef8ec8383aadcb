"""Top-k recall: whole for right kernels, less for faulty ones, none where a step fails."""

import json

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.corpus.entry import Entry, Record, Sighting
from indexfuzz.corpus.store import Corpus
from indexfuzz.reference import gather
from indexfuzz.triage.recall import SeverityError
from indexfuzz.triage.severity import grow, recall

ONE_KEY = Case().replace(cache={"block_size": 1}, batch={"prefill": ({"length": 1, "new": 1},)})
DECODE = Case().replace(cache={"block_size": 16}, batch={"decode": (3,), "max_model_len": 20})


def small(case: Case, stage: str) -> Case:
    """A grown case with few heads, to be quick."""
    return grow(case, stage).replace(model={"num_heads": 2, "head_dim": 32, "rope_dim": 16, "quant_group": 32})


def test_growing_keeps_what_triggers_a_bug():
    case = grow(DECODE.replace(memory={"table_extra": 1}, rope={"mode": "inplace"}), "paged_logits")
    assert case.batch.decode == (3 + 4096,)
    assert case.batch.max_model_len == 20 + 4096
    assert (case.cache, case.memory.table_extra, case.rope.mode) == (DECODE.cache, 1, "inplace")
    assert (case.model.num_heads, case.model.head_dim, case.model.index_topk) == (64, 128, 4099 // 8)
    written = grow(ONE_KEY, "k_quant_cache")
    assert [(p.length, p.new) for p in written.batch.prefill] == [(513, 513)]


def test_a_far_flung_cache_grows_as_far_as_it_can():
    far = ONE_KEY.replace(cache={"block_size": 16, "page_pad": 1 << 26})
    assert grow(far, "gather").lengths == (1 + 512,)
    with pytest.raises(SeverityError, match="too far-flung"):
        grow(far.replace(cache={"block_size": 1, "page_pad": 1 << 28}), "gather")


def test_right_kernels_select_what_the_reference_selects(reference_with, pytorch_device):
    for case, stage in ((ONE_KEY, "gather"), (DECODE, "paged_logits")):
        found = recall(small(case, stage), reference_with(), pytorch_device)
        assert (found.mean, found.worst, found.failed) == (1.0, 1.0, "")
        assert 0 < found.blind < 0.5


def test_a_bug_that_scrambles_keys_costs_recall(reference_with, pytorch_device):
    def other_keys(*, k_fp8, **rest):
        gather.gather(k_fp8=k_fp8, **rest)
        k_fp8.copy_(k_fp8.flip(0))

    found = recall(small(ONE_KEY, "gather"), reference_with(gather=other_keys), pytorch_device)
    assert found.worst <= found.mean < 0.6


def test_each_of_two_bugs_can_be_asked_about_alone(reference_with, pytorch_device):
    def unrotated(*, q, k, **_):
        return q, k

    def other_keys(*, k_fp8, **rest):
        gather.gather(k_fp8=k_fp8, **rest)
        k_fp8.copy_(k_fp8.flip(0))

    faulty, case = reference_with(rope=unrotated, gather=other_keys), small(ONE_KEY, "gather")
    whole, rope, keys = (
        recall(case, faulty, pytorch_device, only).mean for only in map(frozenset, ((), ("rope",), ("gather",)))
    )
    assert len({whole, rope, keys}) == 3
    assert keys == recall(case, reference_with(gather=other_keys), pytorch_device).mean
    assert recall(case, faulty, pytorch_device, frozenset({"topk"})).mean == 1.0


def test_a_step_that_fails_selects_nothing(reference_with, pytorch_device):
    def fails(**_):
        raise RuntimeError("no such page\nat all")

    found = recall(small(ONE_KEY, "gather"), reference_with(gather=fails), pytorch_device)
    assert (found.mean, found.failed) == (0.0, "RuntimeError: no such page")


def test_a_row_without_a_choice_has_no_recall(reference_with, pytorch_device):
    with pytest.raises(SeverityError, match="no row"):
        recall(ONE_KEY.replace(model={"index_topk": 8}), reference_with(), pytorch_device)


def test_the_command(tmp_path, indexfuzz):
    file = Corpus(tmp_path).save(
        Entry(case=DECODE, finding=Record.of(Finding("rope", "bound-exceeded", "q", "not rotated")))
    )
    code, out, _ = indexfuzz("severity", file, "--fault", "rope-result-discarded", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["blind"] < found["mean"] < 0.9
    assert found["rows"] == sum(row >= 64 for row in range(515))


def test_the_command_says_that_kernels_may_not_be_those_that_were_meant(tmp_path, indexfuzz):
    seen = [
        Sighting(implementation="vllm 0.22.0", device="lockstep", triton="3.9.0", torch="2.13.0", date="2026-11-27")
    ]
    finding = Record.of(Finding("rope", "bound-exceeded", "q", "not rotated"))
    file = Corpus(tmp_path).save(Entry(case=DECODE, finding=finding, seen=tuple(seen)))
    told = "does not show rope/bound-exceeded/q; it was seen on vllm 0.22.0, which --impl or --fault names"
    assert told in indexfuzz("severity", file)[2]
    assert indexfuzz("severity", file, "--fault", "rope-result-discarded")[2] == ""


def test_the_command_takes_single_stages(tmp_path, indexfuzz):
    file = Corpus(tmp_path).save(
        Entry(case=DECODE, finding=Record.of(Finding("rope", "bound-exceeded", "q", "not rotated")))
    )
    command = ("severity", str(file), "--fault", "rope-result-discarded", "--stage")
    code, shown, _ = indexfuzz(*command, "topk")
    assert code == 0
    assert "top-k recall 1.000" in shown
    assert "topk alone" in shown
    code, _, err = indexfuzz(*command, "tokp")
    assert code == 2
    assert "no 'tokp'" in err
