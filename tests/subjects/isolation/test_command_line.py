"""Isolation from the command line: defaults, contradictions, and a crash that is found, kept and replayed."""

import json
from pathlib import Path

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.setup import Setup
from indexfuzz.corpus import store
from indexfuzz.corpus.entry import Entry, Record
from indexfuzz.corpus.store import Corpus

HOSTILE = ("--impl", "module:indexfuzz.evaluation.bench.hostile")


@pytest.mark.parametrize(
    ("setup", "isolated", "words"),
    [
        (Setup(), False, ""),
        (Setup(isolate=True), True, " --isolate"),
        (Setup("module:mine"), True, " --impl module:mine"),
        (Setup("module:mine", isolate=False), False, " --impl module:mine --no-isolate"),
        (Setup(python="/other/python"), True, " --python /other/python"),
        (Setup("module:mine", timeout=5.0), True, " --impl module:mine --timeout 5"),
    ],
)
def test_code_that_is_not_ours_is_isolated_unless_told_otherwise(setup, isolated, words):
    assert setup.isolated is isolated
    assert setup.command("replay", Path("x.json")) == f"indexfuzz replay x.json{words}"


@pytest.mark.parametrize("words", [("--timeout", "5"), ("--no-isolate", "--python", "/other/python")])
def test_what_only_a_process_of_its_own_has(indexfuzz, words):
    code, _, err = indexfuzz("run", *words)
    assert (code, err) == (2, f"error: {words[-2]} needs a process of its own; use it with --isolate\n")


def test_a_crash_is_replayed_and_its_process_does_not_print(indexfuzz):
    for keys in (2, 14):
        case = Case().replace(batch={"prefill": ({"length": keys, "new": 0},)})
        record = Record.of(Finding("gather", "crash", "SIGSEGV", "the process died"))
        Corpus(Path("kept")).save(Entry(case=case, finding=record))
    code, out, err = indexfuzz("replay", "kept", *HOSTILE, "--json")
    rows = json.loads(out)["cases"]
    assert (code, err) == (1, "")
    assert sorted((row["status"], row["findings"][0]["signature"]) for row in rows) == [
        ("CHANGED", "gather/stray-output/stdout"),
        ("STILL FAILS", "gather/crash/SIGSEGV"),
    ]


def test_a_campaign_tells_of_an_earlier_run_that_died(indexfuzz):
    kept = Path(".indexfuzz/in-flight/999999999.json")
    kept.parent.mkdir(parents=True)
    store.write(Entry(case=Case(), status="guard", note="In flight when a run died. Again: replay it"), kept)
    words = ("--stage", "rope", "--cases", 5, "--seed", 2, "--corpus", "kept")
    code, out, _ = indexfuzz("run", *words)
    assert code == 0
    assert f"case {Case().id}: In flight when a run died. Again: replay it" in out
    assert "done: 5 cases" in out
    assert Path(f".indexfuzz/died/{Case().id}.json").is_file()
    assert not kept.exists()
