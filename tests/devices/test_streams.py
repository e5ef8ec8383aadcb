"""Launches on streams that begin together: by stand-ins for a GPU's streams, and on a card."""

import types
from contextlib import nullcontext

import pytest
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from indexfuzz.devices import cuda, gate, open_device


class Word:
    """The memory of a gate, which notes what it holds in `told`."""

    def __init__(self, told):
        self._told = told

    def zero_(self):
        self._told.append("closed")

    def fill_(self, value):
        assert value == 1
        self._told.append("open")


@pytest.fixture
def told(monkeypatch):
    """What happens, in order, to a gate and to the streams that wait for it."""
    told = []
    now = types.SimpleNamespace(record_event=lambda: told.append("event recorded"))
    for name, value in {
        "is_available": lambda: True,
        "current_stream": lambda: now,
        "Stream": lambda: types.SimpleNamespace(wait_event=lambda _: told.append("stream waits")),
        "stream": lambda _: nullcontext(),
        "synchronize": lambda: told.append("all has ended"),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    made = gate.Gate.__new__(gate.Gate)
    made._word = Word(told)
    monkeypatch.setattr(cuda, "_gate", lambda: made)
    waiter = {(1,): lambda _word, most, num_warps: told.append("kernel looks") if most and num_warps == 1 else None}
    monkeypatch.setattr(gate, "wait_at_gate", waiter)
    return told


def test_streams_begin_once_all_has_been_launched(told):
    runs = [lambda number=number: told.append(f"launch {number}") for number in (1, 2)]
    cuda.CudaDevice().run_beside(runs)
    assert told == [
        *("closed", "kernel looks", "event recorded"),
        *("stream waits", "launch 1", "stream waits", "launch 2"),
        *("open", "all has ended"),
    ]


def test_a_launch_that_fails_leaves_no_gate_closed(told):
    with pytest.raises(ZeroDivisionError):
        cuda.CudaDevice().run_beside([lambda: 1 // 0])
    assert told[-1] == "open"


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
def test_the_gate_is_looked_at_again_and_again():
    source = ASTSource(gate.wait_at_gate, {"gate": "*i32", "most_looks": "i32"}, {}, {})
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    loop, look, back = (ptx.index(words) for words in ("Loop Header", "ld.volatile.global", "bra"))
    assert loop < look < back


@triton.jit
def note_kernel(place, mark):
    tl.store(place, mark)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
class TestGpu:
    def test_nothing_begins_before_all_has_been_launched(self):
        marks = torch.zeros(2, dtype=torch.int32, device="cuda")
        seen = []

        def note(number):
            note_kernel[(1,)](marks[number:], 1)

        def launch(number):
            note(number)
            with torch.cuda.stream(aside):
                beside = marks.to("cpu", non_blocking=False)
            seen.append(beside.tolist())

        aside = torch.cuda.Stream()
        for number in (0, 1):
            note(number)  # compiled now: no gate is closed for as long as that takes
        marks.zero_()
        torch.cuda.synchronize()
        open_device("cuda").run_beside([lambda: launch(0), lambda: launch(1)])
        assert seen == [[0, 0], [0, 0]]
        assert marks.tolist() == [1, 1]

    def test_a_launcher_that_waits_for_the_gpu_comes_to_an_end(self, monkeypatch):
        monkeypatch.setattr(gate, "MOST_LOOKS", 1 << 10)
        total = torch.ones(8, device="cuda")
        assert open_device("cuda").run_beside([lambda: total.sum().item()]) == [8.0]
