"""A log tells all that happens, in lines that its schema describes."""

import json
from pathlib import Path

import pytest

from indexfuzz.campaign.events import Died, Explained, Found, Known, Seen, Smaller, Unrepeated, Unsupported
from indexfuzz.campaign.log import Line, RunLog
from indexfuzz.campaign.loop import run
from indexfuzz.campaign.settings import Settings
from indexfuzz.campaign.summary import Summary
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.signature import Signature
from indexfuzz.subjects.in_process import InProcess

WRONG = Finding("gather", "code-mismatch", "k_fp8", "is 1, must be 2")
CAUSE = Signature("gather", "layout-mismatch", "k_fp8")
FACTS = {"indexfuzz": "0", "implementation": "toy", "device": "lockstep", "torch": "2", "triton": "3", "seed": 1}


def lines(path):
    return [Line.validate_json(text) for text in path.read_text().splitlines()]


@pytest.fixture
def notices():
    return []


@pytest.fixture
def log(tmp_path, notices):
    with RunLog(tmp_path / "log.jsonl", notices.append) as opened:
        opened.start(shard=(1, 1), workers=2, **FACTS)
        yield opened


def test_every_event_has_a_line(log, tmp_path):
    events = (
        Seen(WRONG, Case()),
        Smaller(WRONG, Case()),
        Known(WRONG, Case(), CAUSE),
        Explained(WRONG, Case(), CAUSE),
        Found(WRONG, Case(), "it is not shown again", CAUSE),
        Unsupported("no fp8"),
        Unrepeated("died once"),
        Died("the process died of SIGSEGV", "died/x.json"),
    )
    for event in events:
        log.hear(event)
    log.end(Summary(cases=3))
    found = lines(tmp_path / "log.jsonl")
    names = "start seen smaller known explained found unsupported unrepeated died end"
    assert [line.event for line in found] == names.split()
    assert found[5].doubt == "it is not shown again"
    assert found[3].by == found[4].by == str(CAUSE)
    assert found[8].file == "died/x.json"


def test_the_cases_of_a_campaign_are_in_it(log, tmp_path, reference_with, pytorch_device):
    summary = run(Settings(InProcess(reference_with(), pytorch_device), cases=5, seed=1), log.hear)
    cases = [line for line in lines(tmp_path / "log.jsonl") if line.event == "case"]
    assert len({line.case for line in cases}) == 5
    assert sum(len(line.stages) for line in cases) == summary.stages.total()


def test_the_first_line_leads_from_the_log_to_the_corpus(log, tmp_path, reference_with, pytorch_device):
    log.start_of(Settings(InProcess(reference_with(), pytorch_device)), 1, tmp_path / "a" / "corpus")
    assert lines(tmp_path / "log.jsonl")[-1].corpus == "a/corpus"


def test_what_a_full_disk_leaves_in_the_buffer_ends_nothing(notices):
    with RunLog(Path("/dev/full"), notices.append) as log:
        log.hear(Unsupported("no fp8"))
        log.hear(Unsupported("no fp8"))
    assert notices == ["no more is written to /dev/full: No space left on device"]


def test_a_full_disk_is_told_once_and_the_campaign_goes_on(log, notices, monkeypatch):
    def write(_text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log._file, "write", write, raising=False)
    log.hear(Unsupported("no fp8"))
    log.hear(Unsupported("no fp8"))
    assert len(notices) == 1
    assert notices[0].endswith("log.jsonl: No space left on device")


def test_the_schema_is_that_of_the_docs():
    kept = Path(__file__).parents[2] / "docs" / "run-log.schema.json"
    assert json.loads(kept.read_text()) == Line.json_schema()


@pytest.mark.parametrize("text", ["", "{}", '{"t": 0, "event": "case", "case": "x", "stages": []}'])
def test_other_lines_are_refused(text):
    with pytest.raises(ValueError, match="validation error"):
        Line.validate_json(text)
