"""Logs of several runs as one: each signature found once, at the time at which the first of them saw it."""

import json
import os

import pytest

from indexfuzz.campaign.log import Line
from indexfuzz.campaign.log_reader import LogError
from indexfuzz.campaign.merged_log import examine_log, merge_logs
from indexfuzz.core.signature import Signature
from indexfuzz.report.story import read_story
from tests.report.test_story import CASE, END, FOUND, START, written

RACE, STRAY = "gather/race/k_out", "gather/out-of-bounds/cache"


def line(event, signature=RACE, case="1" * 16, **more):
    return {"event": event, "signature": signature, "case": case, **more}


@pytest.fixture
def merge(tmp_path):
    def run(*logs, kept=None, symptoms=None):
        paths = [tmp_path / f"{number}.jsonl" for number in range(len(logs))]
        runs = [examine_log(written(path, *lines)) for path, lines in zip(paths, logs, strict=True)]
        merge_logs(runs, tmp_path / "all.jsonl", kept or {}, symptoms or {})
        return read_story(tmp_path / "all.jsonl")

    return run


def test_cases_are_in_the_order_of_time_and_the_start_names_all_runs(merge, tmp_path):
    story = merge((START, CASE, END), (START | {"shard": [2, 2], "torch": "2.5"}, {"t": 0.5, **CASE}, CASE))
    assert story.cases == [0.5, 1.0, 2.0]
    assert (story.start.torch, story.start.workers) == ("2, 2.5", 4)
    assert [(run.shard, run.cases, run.ended) for run in story.start.runs] == [((1, 2), 1, True), ((2, 2), 2, False)]
    assert (story.end.cases, story.end.t) == (3, 9.0)
    for text in (tmp_path / "all.jsonl").read_text().splitlines():
        Line.validate_json(text)


def test_a_signature_is_seen_once_and_the_run_whose_case_is_kept_has_the_last_word(merge):
    first = (START, line("seen"), line("found", detail="large"))
    second = (START, CASE, CASE, line("seen", case="2" * 16), line("found", case="2" * 16, detail="small"))
    story = merge(first, second, kept={RACE: "2" * 16})
    assert (story.findings, story.known, story.seen_again(RACE)) == ([1.0], {}, 1)
    assert story.found[RACE].detail == "small"
    assert story.end.findings == (RACE,)
    assert merge(first, second).found[RACE].detail == "large"


def test_a_symptom_is_put_down_to_its_cause(merge):
    logs = (START, line("seen"), line("found")), (START, line("seen", STRAY), line("found", STRAY))
    story = merge(*logs, symptoms={Signature.parse(RACE): Signature.parse(STRAY)})
    assert list(story.found) == [STRAY]
    assert story.end.findings == (STRAY,)


def test_what_one_run_explained_away_and_another_kept_stays(merge):
    gone = line("explained", by=STRAY)
    story = merge((START, line("seen"), CASE, CASE, gone), (START, line("seen"), line("found")))
    assert list(story.found) == [RACE]
    assert not merge((START, line("seen"), gone)).found


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((START, CASE, START), "holds more than one run"),
        ((START, line("found", "\x1b[2J/race/x")), "has control characters"),
        ((START, line("found", "gather")), "is no signature"),
        ((START | {"runs": [{"seed": 1, "shard": [1, 1], "workers": 1, "cases": 1, "seconds": 1, "ended": True}]},),
         "was merged before"),
        ((START, {"t": "x", **CASE}), "line 2 is no line of a log"),
    ],
)  # fmt: skip
def test_what_cannot_be_merged_is_said_in_one_line(tmp_path, lines, message):
    path = written(tmp_path / "run.jsonl", *lines)
    with pytest.raises(LogError, match=message) as error:
        examine_log(path)
    assert str(error.value).startswith(f"{path}: ")
    assert str(error.value).isprintable()


def test_an_endless_time_is_no_time(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text(json.dumps(START) + "\n" + json.dumps({"t": float("inf"), **CASE}) + "\n" + json.dumps(END) + "\n")
    with pytest.raises(LogError, match="line 2"):
        examine_log(path)


def test_logs_of_different_things_are_not_merged(merge, tmp_path):
    with pytest.raises(LogError, match="is of the device 'cuda', not 'lockstep' as in"):
        merge((START,), (START | {"device": "cuda"},))
    assert not (tmp_path / "all.jsonl").exists()


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(LogError, match="is no regular file"):
        examine_log(tmp_path / "pipe.jsonl")
    with pytest.raises(LogError, match="is a folder"):
        examine_log(tmp_path)


def test_what_a_killed_run_left_is_used_to_its_last_whole_line(tmp_path):
    path = written(tmp_path / "run.jsonl", START, CASE, FOUND)
    path.write_bytes(path.read_bytes()[:-30] + "é".encode()[:1])
    run = examine_log(path)
    assert (run.cases, run.found, run.end) == (1, {}, None)
