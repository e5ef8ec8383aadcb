"""Launches that are captured and replayed with other contents: by a recorder on the CPU, and in a CUDA graph."""

import dataclasses
from contextlib import contextmanager

import pytest
import torch
from triton.runtime.jit import JITFunction

from indexfuzz.core.case import Case
from indexfuzz.core.rng import derive
from indexfuzz.core.session import Turn
from indexfuzz.core.stage_names import STATEFUL
from indexfuzz.devices import open_device
from indexfuzz.devices.base import CaptureError
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults.planting import edited_kernels
from indexfuzz.oracles import pairs, replay


class Recorder:
    """Lockstep, which notes launches and launches them again; whatever the host did between them is not done again."""

    def __init__(self, error=None):
        self._device, self._error = LockstepDevice(), error

    def __getattr__(self, name):
        return getattr(self._device, name)

    def capture(self, run):
        if self._error:
            raise self._error
        noted = []
        with self._device.session(), noting(noted):
            result = run()

        def again():
            with self._device.session():
                for kernel, args, options in noted:
                    kernel.run(*args, **options)

        return result, again


@contextmanager
def noting(noted):
    plain = JITFunction.run

    def run(kernel, *args, **options):
        noted.append((kernel, args, options))
        return plain(kernel, *args, **options)

    JITFunction.run = run
    try:
        yield
    finally:
        JITFunction.run = plain


def turn(request, new, drafts=0, accepted=0):
    return Turn(request=request, new=new, drafts=drafts, accepted=accepted).model_dump()


STEPS = (
    {"turns": (turn(0, 7), turn(1, 5)), "pad_tokens": 1},
    {"turns": (turn(0, 1, 3, 1), turn(1, 2, 2))},
    {"turns": (turn(0, 9), turn(1, 1))},
)
STEP = Case().replace(
    cache={"block_size": 16},
    batch={"decode": (37, 5, 20), "prefill": ({"length": 20, "new": 4}, {"length": 9, "new": 9}), "max_model_len": 40},
)


def session_of(node):
    session = {"node": node, "ratio": 4, "overlap": node in ("compress", "fused_compress"), "steps": STEPS}
    return Case().replace(cache={"block_size": 2, "layout": "normal"}, batch={"max_model_len": 60}, session=session)


def with_mistake(old, new, file):
    edits = [("mistake", f"kernels/{file}.py", old, new)]
    return builtin(edited_kernels(f"mistake-{derive(1, file + old + new)}", edits), "mistaken")


OF_CONTENTS = {
    "compress": ("num_tokens // ratio + 1)", "int(query_start[1]) // ratio + 1)"),
    "pool": ("num_tokens // ratio + 1)", "int(query_start[1]) // ratio + 1)"),
    "fused_pool": ("num_tokens // ratio + 1)", "int(query_start[1]) // ratio + 1)"),
}


@pytest.mark.parametrize("node", STATEFUL)
def test_replayed_sessions_are_as_fresh_ones(node):
    outcome = replay.run(session_of(node), builtin(), Recorder())
    assert not outcome.findings
    assert outcome.stages == [node] * len(STEPS)


@pytest.mark.parametrize("node", ["compress", "pool", "fused_pool"])
def test_a_grid_that_was_made_from_contents_is_stale(node):
    mistaken = with_mistake(*OF_CONTENTS[node], node)
    (finding,) = replay.run(session_of(node), mistaken, Recorder()).findings
    assert finding.kind == replay.KIND
    assert "where the launch was captured with other contents and replayed" in finding.detail
    assert finding.detail.startswith("step 2 of the session: ")
    assert (
        "; when it was captured query_start [0, 9, 10], then [0, 1, 10], context_lens [9, 7], then [" in finding.detail
    )


def test_stages_of_a_step_are_replayed_too():
    only = frozenset({"k_quant_cache", "gather", "paged_logits", "prefill_logits"})
    outcome = replay.run(STEP, builtin(), Recorder(), only)
    assert not outcome.findings
    assert "gather" in outcome.stages


def test_a_stage_whose_grid_was_made_from_contents_is_no_step_of_a_session():
    def first_request_alone(*, context_lens, logits, **rest):
        rows = int(context_lens[0])
        builtin().stages["paged_logits"](context_lens=context_lens, logits=logits, **rest)
        logits[:, rows:] = 0

    stages = builtin().stages | {"paged_logits": first_request_alone}
    outcome = replay.run(STEP, dataclasses.replace(builtin(), stages=stages), Recorder(), frozenset({"paged_logits"}))
    (finding,) = outcome.findings
    assert finding.detail.startswith("row ")
    assert "context_lens [37, 5, 20], then [20, 5, 37]" in finding.detail


class Elsewhere(torch.Tensor):
    """Stands for a tensor on a GPU, which nothing is compared with that is on the CPU."""

    @classmethod
    def __torch_function__(cls, function, kinds, args=(), options=None):
        if function is torch.equal and {type(one) for one in args} != {cls}:
            raise RuntimeError("tensors on two devices")
        found = super().__torch_function__(function, kinds, args, options or {})
        return found.as_subclass(torch.Tensor) if function is torch.Tensor.cpu else found


def test_integers_are_told_where_the_captured_launch_is_on_a_device_of_its_own(monkeypatch):
    like = pairs._like
    monkeypatch.setattr(pairs, "_like", lambda tensor, device: like(tensor, device).as_subclass(Elsewhere))
    mistaken = with_mistake(*OF_CONTENTS["compress"], "compress")
    (finding,) = replay.run(session_of("compress"), mistaken, Recorder()).findings
    assert "; when it was captured query_start [0, 9, 10], then [0, 1, 10]" in finding.detail


def test_what_cannot_be_captured_and_who_captures_nothing_show_nothing():
    for device in (Recorder(CaptureError("waits")), LockstepDevice()):
        outcome = replay.run(session_of("pool"), builtin(), device)
        assert (outcome.findings, outcome.stages) == ([], [])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
class TestGpu:
    @pytest.mark.parametrize("node", STATEFUL)
    def test_graphs_of_sessions_are_as_fresh_launches(self, node):
        outcome = replay.run(session_of(node), builtin(), open_device("cuda"))
        assert not outcome.findings
        assert outcome.stages == [node] * len(STEPS)

    def test_graphs_of_stages_are_as_fresh_launches(self):
        outcome = replay.run(STEP, builtin(), open_device("cuda"))
        assert not outcome.findings
        assert {"k_quant_cache", "gather", "paged_logits"} <= {*outcome.stages}

    def test_an_option_that_was_made_from_contents_cannot_be_captured(self):
        mistaken = with_mistake(*OF_CONTENTS["pool"], "pool")
        outcome = replay.run(session_of("pool"), mistaken, open_device("cuda"))
        assert not outcome.stages
