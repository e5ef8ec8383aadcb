"""Frames, notes of deaths, and the probe of a GPU's context."""

import os

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.signature import Signature
from indexfuzz.subjects.isolation import frames
from indexfuzz.subjects.isolation.deaths import Death, is_of_death, of_status
from indexfuzz.subjects.isolation.messages import from_outcome, to_outcome
from indexfuzz.subjects.isolation.worker import error_of


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_frames_arrive_however_they_are_cut(pipe):
    inbox = frames.Inbox(pipe[0])
    frames.send(pipe[1], {"a": "é"})
    frames.send(pipe[1], {"b": [1.5, None]})
    while inbox.read(3) and len(inbox.pending) < 8:
        pass
    inbox.read()
    assert [inbox.next(), inbox.next(), inbox.next()] == [{"a": "é"}, {"b": [1.5, None]}, None]


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\1{", b"\0\0\0\2[]"])
def test_what_is_no_frame(pipe, data):
    os.write(pipe[1], data)
    with pytest.raises(frames.FrameError):
        frames.receive(pipe[0])


def test_outcomes_come_back_as_they_were():
    finding = Finding("gather", "crash", "SIGSEGV", "it died", index=(1, 2), location="a.py:1", beyond="a clause")
    outcome = Outcome(Case(), [finding], ["gather"], {"rope": "no"}, {"gather": 0.1}, {"gather": "T0"})
    outcome.ordered = {"_gather": 2}
    assert to_outcome(from_outcome(outcome)) == outcome


def test_how_a_process_ended():
    assert of_status(-11).how == "SIGSEGV"
    assert of_status(3).how == "exit-3"


@pytest.mark.parametrize("how", ["SIGSEGV", "exit-0", "timeout", "memory", "output-flood", "poisoned-gpu", "garbled"])
def test_signatures_of_deaths_are_told_from_others(how):
    finding = Death(how, "it died", "gather", beyond="block_size is 1").finding()
    assert is_of_death(finding.signature)
    assert not is_of_death(Signature("gather", "crash", "KeyError"))
    assert not is_of_death(Signature("gather", "code-mismatch", "SIGSEGV"))


def test_a_poisoned_context_keeps_failing(pytorch_device):
    class Poisoned:
        def probe(self):
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA")

    assert error_of(Poisoned()) == "CUDA error: an illegal memory access was encountered"
    assert error_of(pytorch_device) == ""
