"""The bench of what findings hand over: a subset of the planted bugs, each with a small case of its own."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.setup import Setup
from indexfuzz.evaluation.bench import findings as bench
from indexfuzz.evaluation.bench.findings import NOTHING_RAN, PROVED, Handed, as_markdown, hand_over
from indexfuzz.subjects.under_test import put_under_test
from indexfuzz.triage.explain import Explanation
from indexfuzz.triage.prove import Proof

SMALL = Case().replace(
    model={"head_dim": 32, "rope_dim": 16, "quant_group": 32, "num_heads": 1},
    cache={"block_size": 1},
    batch={"prefill": ({"length": 3, "new": 3},)},
)

CASES = {
    "layout-hardcoded-shuffle": ("k_quant_cache", SMALL, "cache", ""),
    "rope-result-discarded": ("rope", SMALL.replace(rope={"mode": "functional"}), "q", "rope.mode inplace"),
    "causal-next-n": (
        "paged_logits",
        SMALL.replace(batch={"prefill": (), "decode": (5,), "next_n": 2, "max_model_len": 16}),
        "logits",
        "batch.next_n 1",
    ),
    "columns-unwritten": (
        "paged_logits",
        SMALL.replace(batch={"prefill": (), "decode": (5,), "max_model_len": 300}),
        "logits",
        "",
    ),
    "topk-one-more-than-k": ("topk", SMALL.replace(model={"index_topk": 2}), "topk", ""),
}


@pytest.mark.parametrize("fault", CASES)
def test_a_finding_comes_with_script_picture_line_and_explanation(fault, monkeypatch, run_copied):
    stage, case, picture, change = CASES[fault]
    target = put_under_test(Setup(faults=(fault,)))
    finding = next(f for f in target.subject.run(case, frozenset({stage})).findings if f.stage == stage)
    monkeypatch.setattr(bench, "EXPLAIN_SECONDS", math.inf if change else 0.0)
    found = hand_over(fault, target, case, finding, prove=run_copied)
    assert found.script == PROVED
    assert picture in found.picture
    assert found.line
    assert found.passes_with.startswith(change)


def test_a_case_that_does_not_show_it_by_itself_is_told_of(monkeypatch):
    finding = Finding("rope", "bound-exceeded", "q", "as after another launch")
    monkeypatch.setattr(bench, "campaign_sight", lambda *_, **__: None)
    in_place = SMALL.replace(rope={"mode": "inplace"})
    monkeypatch.setattr(bench, "witness", lambda *_: (in_place, finding))
    found = bench.measure("rope-result-discarded")
    assert found["misses"] == ("the case that showed it does not by itself",)
    text = as_markdown([found], of=1)
    assert "- 1 of 1 planted bugs were looked at, 1 of them found" in text
    assert "- 0 of 1 scripts tell" in text
    assert "- rope-result-discarded: the case that showed it does not by itself." in text


def test_what_is_missing_is_said_and_counted():
    whole = Handed("one", "rope/bound-exceeded/q", 1, {}, PROVED, "q", "rope.py:1", "rope.mode inplace")
    broken = replace(whole, fault="two", picture="", misses=("no picture",))
    text = as_markdown([asdict(whole), asdict(broken)], of=3)
    nothing = replace(whole, fault="three", picture=NOTHING_RAN)
    both = as_markdown([asdict(whole), asdict(nothing)], of=3)
    assert "- 1 of 2 pictures show a difference; of 1 there is nothing to draw, as no kernel ran." in both
    assert "| four | not found | 0 |" in as_markdown([asdict(Handed("four"))], of=3)
    assert "- 2 of 3 planted bugs were looked at, 2 of them found" in text
    assert "- 2 of 2 scripts tell" in text
    assert "- 1 of 2 pictures show" in text
    assert "- two: no picture." in text
    assert "| one | `rope/bound-exceeded/q` | 1 | tells | q | rope.py:1 | rope.mode inplace |" in text
    assert "| no | q |" in as_markdown([asdict(replace(whole, script="too large"))], of=1)
    assert "Nothing." in as_markdown([asdict(whole)], of=1)


def test_what_shows_whatever_is_changed_is_told_from_what_nobody_knows(run_copied, monkeypatch: pytest.MonkeyPatch):
    everywhere = Explanation((), ("cache.layout",), ("cache.layout",), complete=True, showing=60)
    monkeypatch.setattr(bench, "explain", lambda *_args, **_options: everywhere)
    target = put_under_test(Setup(faults=("norm-mean-in-bf16",)))
    case = SMALL.replace(batch={"prefill": ({"length": 1, "new": 1},)}, values={"k": "normal"})
    finding = next(f for f in target.subject.run(case, frozenset({"k_norm"})).findings if f.stage == "k_norm")
    found = hand_over("norm-mean-in-bf16", target, case, finding, prove=run_copied)
    assert (found.passes_with, found.everywhere, found.misses) == ("", 60, ())
    text = as_markdown([asdict(found)], of=1)
    assert "| none: 60 changes show it, too |" in text
    assert "- 0 of 1 name a change that makes it pass; 1 show with every change" in text
    monkeypatch.setattr(bench, "explain", lambda *_args, **_options: replace(everywhere, complete=False))
    unknown = hand_over("norm-mean-in-bf16", target, case, finding, prove=run_copied)
    assert (unknown.everywhere, unknown.misses) == (0, ("no change found in the time there was",))


@pytest.mark.parametrize("fault", bench.WITNESSES)
def test_a_case_that_is_given_shows_its_fault_and_is_marked(fault):
    target = put_under_test(Setup(faults=(fault,)))
    shown = bench.witness(fault, target.subject)
    assert shown
    assert bench.witness(fault, put_under_test(Setup()).subject) is None
    given = Handed(fault, str(shown[1].signature), script=PROVED, is_given=True)
    text = as_markdown([asdict(given)], of=1)
    assert f"| {fault} * | `{shown[1].signature}` |" in text
    assert "- 1 of 1 planted bugs were looked at, 0 of them found in time." in text
    assert "- 1 bug takes a campaign longer than 60 s" in text


def test_a_script_that_does_not_tell_the_bug_is_a_miss():
    stage, case, *_ = CASES["rope-result-discarded"]
    target = put_under_test(Setup(faults=("rope-result-discarded",)))
    finding = next(f for f in target.subject.run(case, frozenset({stage})).findings if f.stage == stage)
    for shows, words in ((True, "fails without the bug"), (False, "passes with the bug")):
        proof = Proof(shows, "the end")
        assert bench._prove("rope-result-discarded", case, finding, target, lambda _, proof=proof: proof).startswith(
            words
        )


def test_a_run_that_was_stopped_goes_on_and_named_faults_are_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], one_process: None
):
    looked_at: list[str] = []

    def look(fault: str) -> dict[str, object]:
        looked_at.append(fault)
        return asdict(Handed(fault))

    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setattr(bench, "measure", look)
    monkeypatch.setattr(bench, "load_faults", lambda: ["one", "two", "three"])
    assert bench.main(as_json=False, faults=["two"]) == 1
    seen = capsys.readouterr()
    assert "- 1 of 3 planted bugs were looked at" in seen.out
    assert "docs/findings-for-people.md stays as it is: 1 of 3 have a result" in seen.err
    assert not (tmp_path / "docs/findings-for-people.md").exists()
    assert bench.main(as_json=False) == 0
    assert bench.main(as_json=False, faults=["one"]) == 0
    assert looked_at == ["two", "one", "three", "one"]
    assert "3 of 3 planted bugs" in capsys.readouterr().out
    assert "3 of 3 planted bugs" in (tmp_path / "docs/findings-for-people.md").read_text()
