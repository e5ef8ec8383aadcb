"""The bench of what findings hand over: a subset of the planted bugs, each with a small case of its own."""

import contextlib
import io
import math
from dataclasses import asdict, replace

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.setup import Setup
from indexfuzz.evaluation.bench import findings as bench
from indexfuzz.evaluation.bench.findings import PROVED, Handed, as_markdown, hand_over
from indexfuzz.subjects.under_test import put_under_test
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


def _run_here(text: str) -> Proof:
    """Run a script in this process: a new one costs seconds."""
    stream = io.StringIO()
    try:
        with contextlib.redirect_stdout(stream):
            exec(compile(text, "<script>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        return Proof(bool(end.code), stream.getvalue())
    return Proof(shows=False, last_line=stream.getvalue())


@pytest.mark.parametrize("fault", CASES)
def test_a_finding_comes_with_script_picture_line_and_explanation(fault: str, monkeypatch: pytest.MonkeyPatch):
    stage, case, picture, change = CASES[fault]
    target = put_under_test(Setup(faults=(fault,)))
    finding = next(f for f in target.subject.run(case, frozenset({stage})).findings if f.stage == stage)
    monkeypatch.setattr(bench, "EXPLAIN_SECONDS", math.inf if change else 0.0)
    found = hand_over(fault, target, case, finding, tokens_found=3, prove=_run_here)
    assert found.script == PROVED
    assert picture in found.picture
    assert found.line
    assert found.passes_with.startswith(change)


def test_what_is_missing_is_said_and_counted():
    whole = Handed("one", "rope/bound-exceeded/q", 9, 1, PROVED, "q", "rope.py:1", "rope.mode inplace")
    broken = replace(whole, fault="two", picture="", misses=("no picture",))
    text = as_markdown([asdict(whole), asdict(broken)])
    assert "- 2 of 2 scripts tell" in text
    assert "- 1 of 2 pictures show" in text
    assert "- two: no picture." in text
    assert "Nothing." in as_markdown([asdict(whole)])


def test_a_script_that_does_not_tell_the_bug_is_a_miss():
    stage, case, *_ = CASES["rope-result-discarded"]
    target = put_under_test(Setup(faults=("rope-result-discarded",)))
    finding = next(f for f in target.subject.run(case, frozenset({stage})).findings if f.stage == stage)
    for shows, words in ((True, "fails without the bug"), (False, "passes with the bug")):
        proof = Proof(shows, "the end")
        assert bench._prove(case, finding, target, lambda _, proof=proof: proof).startswith(words)
