"""`run --keep-coverage` and `prune`: cases that reach something new are kept, and then the fewest of them."""

import json
from pathlib import Path

import pytest

from indexfuzz.campaign.guarding import NOTE
from indexfuzz.core.case import Case
from indexfuzz.corpus import store
from indexfuzz.corpus.entry import Entry
from indexfuzz.corpus.store import Corpus
from indexfuzz.subjects.open import open_subject
from indexfuzz.subjects.reaching import reaching

TOY = ("--impl", "module:toy_gather")
KEYS = Case().replace(batch={"prefill": ({"length": 2, "new": 0},)})


@pytest.fixture(autouse=True)
def _right(monkeypatch):
    monkeypatch.setenv("TOY", "right")


def guard(seed, case=KEYS, **more):
    return Corpus(Path("kept")).save(Entry(case=case.replace(values={"seed": seed}), status="guard", **more))


def reached(folder):
    subject = reaching(open_subject("module:toy_gather"))
    return frozenset().union(*(subject.run(store.load(path).case).reached for path in Corpus(folder).files()))


def test_a_run_keeps_guards_that_do_not_depend_on_its_processes(indexfuzz):
    words = ("run", *TOY, "--cases", 60, "--seed", 1, "--keep-coverage")
    code, out, _ = indexfuzz(*words, "--corpus", "one", "--workers", 1)
    assert code == 0
    indexfuzz(*words, "--corpus", "two", "--workers", 2)
    names = [path.name for path in Corpus(Path("one")).files()]
    assert f"kept {len(names)} cases that reached something new in one" in out
    assert names == [path.name for path in Corpus(Path("two")).files()]
    again = indexfuzz(*words, "--corpus", "one", "--workers", 1)[1]
    assert "kept 0 cases" in again
    everything = reached(Path("one"))
    code, out, _ = indexfuzz("prune", "one", *TOY)
    left = Corpus(Path("one")).files()
    assert code == 0
    assert 0 < len(left) < len(names)
    assert reached(Path("one")) == everything
    assert f"{len(left)} guards reach {len(everything)} things; {len(names) - len(left)} that reach nothing else" in out


def test_each_guard_that_stays_says_what_for(indexfuzz):
    paths = [guard(0, note=NOTE), guard(1, note=NOTE), guard(2, note="the case of issue 7")]
    code, out, _ = indexfuzz("prune", "kept", *TOY, "--dry-run", "--json")
    data = json.loads(out)
    assert code == 0
    assert all(path.exists() for path in paths)
    assert str(paths[2]) in [kept["file"] for kept in data["guards"]]
    assert {str(paths[0]), str(paths[1])} & set(data["removed"])
    out = indexfuzz("prune", "kept", *TOY)[1]
    assert f"{paths[2]}  stays, whatever it reaches" in out
    assert paths[2].exists()
    assert not Path(data["removed"][0]).exists()


def test_a_guard_that_fails_stays_and_is_a_finding(indexfuzz, monkeypatch):
    monkeypatch.setenv("TOY", "wrong")
    path = guard(0)
    code, _, err = indexfuzz("prune", "kept", *TOY)
    assert code == 1
    assert err.startswith(f"stays: {path}: it fails: gather/code-mismatch/k_scale")
    assert path.exists()


def test_a_file_that_cannot_be_read_is_a_line_and_changes_nothing_else(indexfuzz):
    guard(0)
    broken = Path("kept/indexer/0123456789abcdef.json")
    broken.write_text("{")
    code, out, err = indexfuzz("prune", "kept", *TOY)
    assert code == 2
    assert err == f"left out: {broken}: not JSON: line 1, column 2: Expecting property name enclosed in double quotes\n"
    assert "1 guards reach" in out
    assert broken.read_text() == "{"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("prune", "nowhere"), "nowhere: no such folder"),
        (("prune", ".", "--device", "interpreter"), "does not see masks"),
        (("run", "--coverage", "--keep-coverage"), "--coverage and --keep-coverage exclude each other"),
        (("run", "--keep-coverage", "--isolate"), "--keep-coverage sees what is reached without isolation only"),
    ],
)
def test_wrong_words_are_2_and_one_line(indexfuzz, monkeypatch, words, message):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    code, out, err = indexfuzz(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
