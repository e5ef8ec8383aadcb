import json
from pathlib import Path

import pytest

from indexfuzz.core.signature import Signature
from indexfuzz.corpus.entry import Entry, Sighting
from indexfuzz.corpus.store import Corpus
from tests.report.test_evidence import CASE, FINDING
from tests.report.test_story import END, START, written


@pytest.fixture
def report(indexfuzz):
    """Run `indexfuzz report` in a folder of its own; -> (exit code, standard output, standard error)."""
    return lambda *words: indexfuzz("report", *words)


def found(signature=str(FINDING.signature)):
    return {"event": "found", "case": CASE.id, "signature": signature}


def keep():
    Corpus(Path("corpus")).save(Entry(case=CASE, finding=FINDING))


def test_a_page_of_the_kept_cases(report):
    keep()
    Corpus(Path("corpus")).save(Entry(case=CASE.replace(values={"seed": 3}), status="guard"))
    assert report() == (0, "1 finding in indexfuzz-report.html\n", "")
    assert "as it was kept" in Path("indexfuzz-report.html").read_text()


def test_a_run_says_where_its_cases_are(report):
    keep()
    Path("corpus").rename("elsewhere")
    Path("logs").mkdir()
    log = written(Path("logs/run.jsonl"), START | {"corpus": "../elsewhere"}, found(), END)
    assert report(str(log))[0] == 0
    written(log, START | {"corpus": "../moved"}, found(), END)
    code, _, err = report(str(log))
    assert (code, "name the folder that the run wrote to" in err) == (2, True)


def test_a_page_of_a_run_has_its_findings_only(report):
    keep()
    log = written(Path("run.jsonl"), START, found(), END)
    other = FINDING.model_copy(update={"detail": "of another run"})
    Corpus(Path("corpus")).save(Entry(case=CASE.replace(values={"seed": 3}), finding=other))
    assert report(str(log), "--out", "page.html")[:2] == (0, "1 finding in page.html\n")
    text = Path("page.html").read_text()
    assert ("as it was kept" in text, "of another run" in text) == (True, False)


def test_code_scanning_keeps_what_was_known_and_seen_again(report):
    keep()
    toy = Sighting(implementation="toy 1.0", device="lockstep", triton="3", torch="2", date="2026-01-31")
    known = FINDING.model_copy(update={"signature": Signature.parse("gather/race/k_out")})
    for seed, status, seen in ((1, "open", (toy,)), (2, "fixed", (toy,)), (3, "open", ())):
        case = CASE.replace(values={"seed": seed})
        Corpus(Path("corpus")).save(Entry(case=case, finding=known, status=status, seen=seen))
    again = {"event": "known", "case": "0" * 16, "signature": "gather/race/k_out"}
    log = written(Path("run.jsonl"), START, again, found(), END)
    assert report(str(log), "--sarif", "out.sarif") == (0, "1 finding in indexfuzz-report.html\n", "")
    run = json.loads(Path("out.sarif").read_text())["runs"][0]
    assert [result["ruleId"] for result in run["results"]] == ["bound-exceeded", "race"]
    assert len(run["results"][1]["relatedLocations"]) == 1
    written(log, START, found(), END)
    report(str(log), "--sarif", "out.sarif")
    assert len(json.loads(Path("out.sarif").read_text())["runs"][0]["results"]) == 1


def test_what_cannot_be_used_is_said_in_one_line(report):
    keep()
    written(Path("run.jsonl"), START, found("gather/race/k_out"), END)
    Path("page").mkdir()
    for words, message in {
        ("nowhere.jsonl",): "nowhere.jsonl: No such file",
        ("run.jsonl",): "no case in corpus shows gather/race/k_out; name the folder that the run wrote to",
        ("--out", "page"): "cannot write page: Is a directory",
        ("--sarif", "page"): "cannot write page: Is a directory",
        ("--impl", "nothing"): "no implementation 'nothing'",
    }.items():
        code, out, err = report(*words)
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1


def test_a_broken_file_is_left_out_and_named(report):
    keep()
    broken = Path("corpus/rope/0123456789abcdef.json")
    broken.write_text("{")
    code, _, err = report()
    assert (code, err.count("\n")) == (0, 1)
    assert f"left out: {broken}: not JSON" in err
