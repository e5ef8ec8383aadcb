"""Scripts that capture a launch and replay it: by a stand-in for CUDA graphs that notes launches of kernels."""

import importlib
import os
import sys
import types
from contextlib import nullcontext

import pytest
import torch

from indexfuzz.core.setup import Setup
from indexfuzz.devices import open_device
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.builtin import builtin
from indexfuzz.oracles import replay, streams
from indexfuzz.report.pictures.draw import draw, explain_absence
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import UnderTest
from indexfuzz.triage.looking import look_at
from indexfuzz.triage.prove import run_script
from indexfuzz.triage.replayed import ReplayLook
from indexfuzz.triage.repro import script
from tests.oracles.test_replay import OF_CONTENTS, STEP, Recorder, noting, session_of, with_mistake

SENTENCE = "nothing is captured in a CUDA graph without an NVIDIA GPU: run this script where there is one"


def put(implementation):
    return UnderTest(InProcess(implementation, LockstepDevice()), Setup("builtin"))


@pytest.fixture
def graphs(monkeypatch):
    """CUDA graphs that note launches of kernels and launch them again."""

    class Graph:
        def __init__(self):
            self.noted = []

        def replay(self):
            for kernel, args, options in self.noted:
                kernel.run(*args, **options)

    cuda = types.SimpleNamespace(
        is_available=lambda: True,
        Stream=lambda: types.SimpleNamespace(wait_stream=lambda _: None),
        current_stream=lambda: None,
        stream=lambda _: nullcontext(),
        synchronize=lambda: None,
        CUDAGraph=Graph,
        graph=lambda graph: noting(graph.noted),
    )
    for name in vars(cuda):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))


def run_on_cpu(text, run_copied):
    with LockstepDevice().session():
        return run_copied(text.replace('DEVICE = "cuda"', 'DEVICE = "cpu"'))


@pytest.mark.parametrize("node", OF_CONTENTS)
def test_a_grid_that_is_stale_in_a_step_of_a_session_is_shown(node, graphs, run_copied, monkeypatch):
    case, (old, new) = session_of(node), OF_CONTENTS[node]
    mistaken = with_mistake(old, new, node)
    (finding,) = replay.run(case, mistaken, Recorder()).findings
    target = put(mistaken)
    text = script(target.entry(case, finding), target)
    assert "torch.cuda.graph(graph)" in text
    shown = run_on_cpu(text, run_copied)
    assert shown.shows
    assert "where the launch was captured with other contents and replayed" in shown.last_line
    healed = text.replace(mistaken.stages[node].__module__.rpartition(".")[0], "indexfuzz.kernels")
    assert not run_on_cpu(healed, run_copied).shows


def test_without_a_gpu_it_says_so_in_one_sentence(run_copied):
    case = session_of("pool")
    mistaken = with_mistake(*OF_CONTENTS["pool"], "pool")
    (finding,) = replay.run(case, mistaken, Recorder()).findings
    target = put(mistaken)
    ended = run_copied(script(target.entry(case, finding), target))
    assert (ended.shows, ended.last_line.strip()) == (False, SENTENCE)


REMEMBERING = """
from indexfuzz.kernels.gather import gather as kernel

KEPT = {}


def gather(cache, block_table, cu_seqlens, *rest, **options):
    starts = KEPT.setdefault(cu_seqlens.data_ptr(), cu_seqlens.clone())
    return kernel(cache, block_table, starts, *rest, **options)
"""
"""What a launcher keeps of the contents of memory that it has seen."""

RIGHT = REMEMBERING.replace("KEPT.setdefault(cu_seqlens.data_ptr(), cu_seqlens.clone())", "cu_seqlens")


@pytest.fixture
def remembering(tmp_path, monkeypatch):
    """A module of that text, and an implementation that has its gather."""
    (tmp_path / "their_gather.py").write_text(REMEMBERING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    module = importlib.import_module("their_gather")
    yield tmp_path / "their_gather.py", put(Implementation("theirs", {"gather": module.gather}, builtin().contract))
    sys.modules.pop("their_gather")


def test_what_a_launcher_kept_of_other_contents_is_shown_in_a_step(remembering, graphs, run_copied):
    file, target = remembering
    (finding,) = replay.run(STEP, target.subject.implementation, Recorder()).findings
    text = script(target.entry(STEP, finding), target)
    assert "from their_gather import gather as kernel" in text
    sys.modules["their_gather"].KEPT.clear()  # a copy of this process would have them, by addresses that are free again
    assert run_on_cpu(text, run_copied).shows
    file.write_text(RIGHT)
    importlib.invalidate_caches()
    importlib.reload(sys.modules["their_gather"])
    assert not run_on_cpu(text, run_copied).shows


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_shows_it_too(remembering):
    file, target = remembering
    (finding,) = replay.run(STEP, target.subject.implementation, open_device("cuda")).findings
    text = script(target.entry(STEP, finding), target)
    proof = run_script(text)
    assert proof.shows
    assert "where the launch was captured with other contents and replayed" in proof.last_line
    file.write_text(RIGHT)
    assert not run_script(text).shows


def test_what_was_replayed_is_drawn_beside_a_fresh_launch_where_a_device_captures(remembering):
    _, target = remembering
    subject = InProcess(target.subject.implementation, Recorder())
    (finding,) = replay.run(STEP, subject.implementation, subject.device).findings
    look = look_at(STEP, finding.signature, subject)
    assert isinstance(look, ReplayLook)
    (picture,) = draw(look)
    assert picture.panels[0].title == "replayed, against a fresh launch"
    assert {*"".join(picture.panels[0].cells)} == {"X", "."}
    assert look.sentences()
    assert look_at(STEP, finding.signature, target.subject) is None
    assert "only an NVIDIA GPU" in explain_absence(finding.kind, None)
    assert "beside each other" in explain_absence(streams.KIND, None)
    (remembered,) = replay.run(STEP, builtin(), Recorder(), frozenset({"gather"})).findings or [None]
    assert remembered is None
