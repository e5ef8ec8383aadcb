"""What slices have left becomes one corpus and one log; nothing is removed before what it says is elsewhere."""

import json
import uuid
from pathlib import Path

import pytest

from indexfuzz.core.finding import Finding
from indexfuzz.corpus.entry import Entry
from indexfuzz.fleet.collecting import collect, findings_of, read_corpus
from indexfuzz.fleet.shared import Shared, SharedError
from tests.campaign.test_merging import LARGE, SMALL, WRONG, entry
from tests.report.test_story import CASE, END, FOUND, START

OTHER = Finding("topk", "crash", "KeyError", "it crashed", location="a.py:7")


@pytest.fixture
def shared():
    return Shared(f"memory://{uuid.uuid4().hex}")


def leave(shared, number, *entries, campaign="now", log=(START, CASE, END)):
    """What a slice leaves."""
    folder = f"slices/{campaign}/{number:05}"
    for each in entries:
        shared.write(f"{folder}/corpus/{each.file}", each.dumps().encode())
    if log:
        lines = "".join(json.dumps({"t": float(i), **line}) + "\n" for i, line in enumerate(log))
        shared.write(f"{folder}/run.jsonl", lines.encode())


def corpus(shared):
    return [found for _, found in shared.entries("corpus")]


def test_slices_become_one_corpus_and_one_log(shared, tmp_path):
    leave(shared, 1, entry(LARGE))
    leave(shared, 2, entry(SMALL), log=(START | {"shard": [2, 2]}, CASE, FOUND, END))
    collected = collect(shared, "now")
    assert corpus(shared) == [entry(SMALL)]
    assert findings_of(collected.merged) == [(str(WRONG.signature), f"corpus/{entry().file}")]
    assert shared.names("logs") == [collected.log] == ["logs/now.jsonl"]
    shared.download(collected.log, tmp_path / "log")
    start, *_, end = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert [run["shard"] for run in start["runs"]] == [[1, 2], [2, 2]]
    assert end["cases"] == 2
    assert shared.names("slices") == []


def test_again_it_changes_nothing(shared):
    leave(shared, 1, entry())
    collect(shared, "now")
    collected = collect(shared, "later")
    assert (findings_of(collected.merged), collected.log, collected.complaints) == ([], "", [])
    assert corpus(shared) == [entry()]


def test_a_smaller_case_takes_the_place_of_a_larger_one(shared):
    for number, case in enumerate((LARGE, SMALL)):
        leave(shared, 1, entry(case), campaign=str(number))
        collect(shared, str(number))
    assert corpus(shared) == [entry(SMALL)]


def test_what_campaigns_left_that_were_killed_is_merged_and_stays(shared):
    leave(shared, 1, entry(finding=OTHER), campaign="before")
    leave(shared, 1, entry(LARGE))
    collect(shared, "now")
    assert {str(found.finding.signature) for found in corpus(shared)} == {str(OTHER.signature), str(WRONG.signature)}
    left = [name for name in shared.names("slices") if name.startswith("slices/before/")]
    assert len(left) == 2
    assert shared.names("slices") == left


def test_what_cannot_be_used_costs_a_line_and_stays(shared):
    leave(shared, 1, entry(), log=({"event": "nonsense"},))
    leave(shared, 2)
    broken = "slices/now/00002/corpus/rope/0123456789abcdef.json"
    shared.write(broken, b"{")
    collected = collect(shared, "now")
    assert corpus(shared) == [entry()]
    (one, other) = collected.complaints
    assert one.startswith(f"{broken}: not JSON")
    assert other.startswith("slices/now/00001/run.jsonl: line 1 is no line of a log")
    assert shared.names("slices") == ["slices/now/00001/run.jsonl", broken]
    assert collected.log == "logs/now.jsonl"


def test_logs_that_cannot_be_joined_stay_as_they_are(shared):
    leave(shared, 1)
    leave(shared, 2, log=(START | {"implementation": "another"}, CASE, END))
    collected = collect(shared, "now")
    assert collected.log == ""
    assert "merge logs of one thing at a time" in collected.complaints[0]
    assert len(shared.names("slices")) == 2


def test_a_damaged_file_of_the_corpus_is_set_aside_for_a_good_one(shared):
    name = f"corpus/{entry().file}"
    shared.write(name, b"{")
    assert read_corpus(shared)[0] == []
    leave(shared, 1, entry())
    collected = collect(shared, "now")
    assert len(collected.complaints) == 1
    assert corpus(shared) == [entry()]
    assert shared.names("corpus") == [name, f"{name}.damaged"]


def test_where_it_breaks_off_everything_is_found_again(shared, monkeypatch):
    """However many files were written when it stopped, each finding is in the corpus or in a slice, and is merged."""
    leave(shared, 1, entry(SMALL), entry(LARGE, OTHER))
    shared.write(f"corpus/{entry(LARGE).file}", entry(LARGE).dumps().encode())
    write, remove = Shared.write, Shared.remove
    for step in range(1, 9):
        done = []

        def strike(method, self, *arguments, done=done, step=step):
            done.append(arguments)
            if len(done) == step:
                raise SharedError("gone")
            return method(self, *arguments)

        monkeypatch.setattr(Shared, "write", lambda *a, strike=strike: strike(write, *a))
        monkeypatch.setattr(Shared, "remove", lambda *a, strike=strike: strike(remove, *a))
        try:
            collect(shared, "now")
        except SharedError:
            pass
        else:
            break
        finally:
            monkeypatch.undo()
        found = [each for _, each in (*shared.entries("corpus"), *shared.entries("slices"))]
        assert {str(e.finding.signature) for e in found if isinstance(e, Entry)} == {
            str(WRONG.signature),
            str(OTHER.signature),
        }
    assert step > 3
    assert sorted(str(e.finding.signature) for e in corpus(shared)) == [str(WRONG.signature), str(OTHER.signature)]
    assert shared.names("slices") == []


def test_paths_of_complaints_are_names_of_the_shared_folder(tmp_path):
    shared = Shared(str(tmp_path))
    leave(shared, 1, log=None)
    shared.write("corpus/gather/0123456789abcdef.json", b"[]")
    ((_, complaint),) = [("", text) for text in collect(shared, "now").complaints]
    assert complaint.startswith(str(Path("corpus/gather/0123456789abcdef.json")))
