"""Scripts for launches that are made otherwise, and for launches beside each other: by stand-ins, and on a card."""

import types
from contextlib import contextmanager
from itertools import chain, zip_longest

import pytest
import torch
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

from indexfuzz.core.setup import Setup
from indexfuzz.devices import open_device
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.oracles import streams, tuning
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import UnderTest
from indexfuzz.triage.launches import ReproError
from indexfuzz.triage.prove import run_script
from indexfuzz.triage.repro import script
from tests import toy_launches
from tests.oracles.test_tuning import STEP, Launches, step_of_second_entry, step_with


def put(device):
    return UnderTest(InProcess(toy_launches.implementation, device), Setup("module:tests.toy_launches"))


@pytest.fixture
def planted(monkeypatch):
    def plant(what):
        monkeypatch.setenv("PLANTED", what)
        monkeypatch.setattr(toy_launches, "KEPT", {})

    return plant


def script_of(oracle, case, device):
    target = put(device)
    (finding,) = oracle.run(case, target.subject.implementation, target.subject.device).findings
    return script(target.entry(case, finding), target)


@pytest.fixture
def two_streams(monkeypatch):
    """Streams whose launches are made when all are waited for: by turns, if they have been held back for long."""
    queues, slept = [], []

    class Stream:
        def __init__(self):
            self.launched = []
            queues.append(self.launched)

        def wait_event(self, _):
            pass

    @contextmanager
    def stream(one):
        plain, JITFunction.run = JITFunction.run, lambda *args, **options: one.launched.append((args, options))
        try:
            yield
        finally:
            JITFunction.run = plain

    def has_begun():
        return slept[-1] < 1_000_000_000

    def synchronize():
        in_turn = [] if not queues else [tuple(chain(*queues))] if has_begun() else zip_longest(*queues)
        for args, options in filter(None, chain(*in_turn)):
            JITFunction.run(*args, **options)
        queues.clear()

    now = types.SimpleNamespace(record_event=lambda: types.SimpleNamespace(query=has_begun))
    for name, value in {
        "is_available": lambda: True,
        "_sleep": slept.append,
        "current_stream": lambda: now,
        "Stream": Stream,
        "stream": stream,
        "synchronize": synchronize,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)


def test_memory_that_two_launches_share_is_shown(planted, two_streams, run_copied, monkeypatch):
    planted("stream")
    text = script_of(streams, STEP, Launches()).replace('DEVICE = "cuda"', 'DEVICE = "cpu"')
    with LockstepDevice().session():
        shown = run_copied(text)
    assert shown.shows
    assert "in launches beside each other" in shown.last_line
    monkeypatch.setenv("PLANTED", "")
    with LockstepDevice().session():
        assert not run_copied(text).shows


def test_a_script_of_another_entry_says_which_and_that_it_takes_a_gpu(planted, run_copied, monkeypatch):
    planted("entry")
    before = JITFunction.run, Autotuner.run
    for each, attribute in zip((JITFunction, Autotuner), before, strict=True):
        monkeypatch.setattr(each, "run", attribute)  # which the script changes
    text = script_of(tuning, step_of_second_entry(), Launches())
    assert "ENTRIES = {'copy_kernel': 'BLOCK: 32, " in text
    ended = run_copied(text)
    assert not ended.shows
    assert ended.last_line.strip() == "kernels have warps on an NVIDIA GPU alone: run this script where there is one"


def test_where_it_does_not_show_there_is_one_sentence(planted):
    planted("entry")
    case, target = step_of_second_entry(), put(Launches())
    (finding,) = tuning.run(case, target.subject.implementation, target.subject.device).findings
    elsewhere = put(LockstepDevice())
    with pytest.raises(ReproError, match=r"^gather/metamorphic/tuning/k_scale does not show on lockstep$"):
        script(elsewhere.entry(case, finding), elsewhere)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(
    ("what", "oracle", "case"),
    [("warps", tuning, step_with(8)), ("entry", tuning, step_of_second_entry()), ("stream", streams, STEP)],
)
def test_a_gpu_shows_them(what, oracle, case, planted, monkeypatch):
    planted(what)
    text = script_of(oracle, case, open_device("cuda"))
    assert run_script(text).shows
    monkeypatch.setenv("PLANTED", "")
    assert not run_script(text).shows
