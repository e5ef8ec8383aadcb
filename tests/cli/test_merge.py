"""The command `merge`: shards into one corpus and one log; a file that cannot be used costs one line."""

import json
from pathlib import Path

import pytest

from indexfuzz.corpus import store
from indexfuzz.corpus.store import Corpus
from tests.campaign.test_merging import LARGE, SMALL, STRAY, WRONG, entry
from tests.report.test_story import CASE, END, START, written


@pytest.fixture
def merge(indexfuzz):
    """Run `indexfuzz merge` in a folder of its own; -> (exit code, standard output, standard error)."""
    return lambda *words: indexfuzz("merge", *words)


def shard(number, *entries, log=(START, CASE, END)):
    """What a shard leaves, in a folder of its own."""
    folder = Path(f"shards/{number}")
    for each in entries:
        Corpus(folder / "corpus").save(each)
    folder.mkdir(parents=True, exist_ok=True)
    return written(folder / "run.jsonl", *log)


def test_shards_become_one_corpus_and_one_log(merge):
    shard(1, entry(LARGE))
    shard(2, entry(SMALL))
    code, out, err = merge("shards", "--into", "kept", "--log", "all.jsonl")
    assert (code, err) == (1, "")
    assert f"new: {WRONG.signature}  kept/{entry().file}" in out
    assert "2 kept cases read, 1 gave way to a smaller case of the same; 1 in kept" in out
    assert "2 logs read, 2 cases, 1 different ones; merged in all.jsonl" in out
    assert [store.load(path) for path in Corpus(Path("kept")).files()] == [entry()]
    assert merge("shards", "--into", "kept", "--log", "new/all.jsonl")[0] == 0


def test_what_is_new_as_json(merge):
    shard(1, entry(SMALL, WRONG), entry(LARGE, STRAY))
    code, out, _ = merge("shards", "--into", "kept", "--json")
    data = json.loads(out)
    assert code == 1
    (new,) = data["new"]
    assert (new["signature"], new["symptoms"]) == (str(STRAY.signature), [str(WRONG.signature)])
    assert Path(new["file"]).exists()


def test_broken_files_are_a_line_each_and_the_others_are_merged(merge):
    shard(1, entry())
    shard(2, log=({"event": "nonsense"},))
    broken = Path("shards/2/corpus/rope/0123456789abcdef.json")
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    code, _, err = merge("shards", "--into", "kept", "--log", "all.jsonl")
    assert code == 1
    assert len(err.splitlines()) == 2
    assert f"left out: {broken}: not JSON" in err
    assert "left out: shards/2/run.jsonl: line 1 is no line of a log" in err
    assert len(Corpus(Path("kept")).files()) == 1
    assert merge("shards", "--into", "kept", "--log", "all.jsonl")[0] == 2


def test_a_broken_file_of_the_corpus_is_named_and_stays(merge):
    shard(1, entry())
    broken = Path("kept/rope/0123456789abcdef.json")
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    _, _, err = merge("shards", "--into", "kept")
    assert f"left out: {broken}: not JSON" in err
    assert broken.read_text() == "{"


def test_the_corpus_may_lie_in_a_source_and_hidden_folders_are_no_part(merge):
    Corpus(Path("shards/kept")).save(entry(LARGE))
    Corpus(Path("shards/.indexfuzz/planted")).save(entry(SMALL))
    code, out, _ = merge("shards", "--into", "shards/kept")
    assert code == 0
    assert "0 kept cases read; 1 in shards/kept" in out


def test_one_file_by_its_name(merge):
    path = Corpus(Path("one")).save(entry())
    assert merge(str(path), "--into", "kept")[0] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere", "--into", "kept"), "nowhere: no such file or folder"),
        (("shards",), "Missing option '--into'"),
        (("shards", "--into", "a-file"), "--into a-file: is a file"),
        (("shards/1/run.jsonl", "--into", "kept"), "is a log; say with --log where the merged one goes"),
        (("shards/1/corpus", "--into", "kept", "--log", "x.jsonl"), "there is no log to merge"),
        (("shards", "--into", "kept", "--log", "a-file/x.jsonl"), "--log a-file/x.jsonl: Not a directory"),
        (("shards", "--into", "a-file/kept"), "cannot write to a-file/kept"),
    ],
)
def test_wrong_words_are_2_and_one_line(merge, words, message):
    shard(1, entry())
    Path("a-file").write_text("")
    code, out, err = merge(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
