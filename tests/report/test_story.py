import json

import pytest

from indexfuzz.campaign.log_reader import LogError
from indexfuzz.report.story import read_story

START = {"t": 0.0, "event": "start", "schema_version": 1, "indexfuzz": "0.1.0", "implementation": "toy 1.0"}
START |= {"device": "lockstep", "torch": "2", "triton": "3", "seed": 4, "shard": [1, 2], "workers": 2}
CASE = {"event": "case", "case": "0" * 16, "stages": ["rope", "gather"], "outside": ["topk"], "findings": []}
FOUND = {"event": "found", "case": "1" * 16, "signature": "rope/crash/KeyError", "detail": "smaller"}
END = {"t": 9.0, "event": "end", "cases": 2, "findings": ["rope/crash/KeyError"], "interrupted": 0}


def written(path, *lines):
    path.write_text("".join(json.dumps({"t": float(i), **line}) + "\n" for i, line in enumerate(lines)))
    return path


@pytest.fixture
def log(tmp_path):
    return tmp_path / "run.jsonl"


def test_what_happened_is_counted_and_the_last_word_on_a_finding_stays(log):
    seen = FOUND | {"event": "seen", "detail": "as drawn"}
    other = FOUND | {"event": "seen", "signature": "topk/illegal-topk/selected"}
    taken_back = other | {"event": "explained", "by": FOUND["signature"]}
    known = FOUND | {"event": "known", "signature": "gather/race/k_out"}
    died = {"event": "died", "message": "SIGSEGV", "file": "x.json"}
    story = read_story(written(log, START, CASE, seen, CASE, other, taken_back, known, died, FOUND, END))
    assert (story.cases, story.findings, story.seconds) == ([1.0, 3.0], [2.0, 4.0], 9.0)
    assert (story.stages, story.outside) == ({"rope": 2, "gather": 2}, {"topk": 2})
    assert (story.known, story.messages) == ({"gather/race/k_out": 1}, {"SIGSEGV": 1})
    assert {name: line.detail for name, line in story.found.items()} == {FOUND["signature"]: "smaller"}
    assert story.end


def test_what_is_seen_again_of_a_finding_is_no_known_one(log):
    first = {"event": "seen", "case": "1" * 16, "signature": "rope/bound-exceeded/q"}
    symptom = {"event": "known", "case": "2" * 16, "signature": "rope/bound-exceeded/k", "by": first["signature"]}
    again = first | {"event": "known"}
    known = first | {"event": "known", "signature": "gather/race/k_out"}
    caught = known | {"signature": "gather/metamorphic/batch/k_out", "by": known["signature"]}
    found = FOUND | {"seen_as": first["signature"]}
    story = read_story(written(log, START, first, symptom, symptom, again, known, caught, found))
    assert story.known == {known["signature"]: 1, caught["signature"]: 1}
    assert (story.seen_again(FOUND["signature"]), story.symptoms(FOUND["signature"])) == (1, [symptom["signature"]])
    assert (story.seen_again("topk/race/x"), story.symptoms("topk/race/x")) == (0, [])


def test_causes_that_go_round_in_a_circle_end(log):
    one = {"event": "known", "case": "1" * 16, "signature": "rope/race/q", "by": "rope/race/k"}
    other = one | {"signature": "rope/race/k", "by": "rope/race/q"}
    assert read_story(written(log, START, one, other)).known == {"rope/race/q": 1, "rope/race/k": 1}


def test_a_signature_that_becomes_another_one_is_told_once(log):
    seen = FOUND | {"event": "seen", "signature": "rope/bound-exceeded/q"}
    story = read_story(written(log, START, seen, FOUND | {"seen_as": "rope/bound-exceeded/q"}))
    assert list(story.found) == [FOUND["signature"]]


def test_the_log_of_a_run_that_was_killed_ends_anywhere(log):
    written(log, START, CASE, CASE)
    log.write_text(log.read_text()[:-20])
    story = read_story(log)
    assert (len(story.cases), story.end, story.seconds) == (1, None, 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("", "holds no run"),
        ("{\n{}\n", "line 1 is no line of a log"),
        (json.dumps({"t": 1.0, **CASE}) + "\n", "line 1 comes before the line that starts a log"),
        (json.dumps(START | {"seed": "x"}) + "\n\n", "line 1 is no line"),
        ("\udcff", "not UTF-8 text"),
    ],
)
def test_what_is_no_log_is_said_in_one_line(log, text, message):
    if text is not None:
        log.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(LogError, match=message) as error:
        read_story(log)
    assert str(error.value).startswith(f"{log}: ")
    assert "\n" not in str(error.value)
