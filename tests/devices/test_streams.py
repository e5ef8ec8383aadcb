"""Launches on streams that begin together, as far as it can be seen without a GPU."""

import types
from contextlib import nullcontext

import pytest
import torch

from indexfuzz.devices import cuda


@pytest.fixture
def slept(monkeypatch):
    """For how many cycles streams were held back; launches are late where it was less than 50 million."""
    cycles = []
    event = types.SimpleNamespace(query=lambda: cycles[-1] < 50_000_000)
    now = types.SimpleNamespace(record_event=lambda: event)
    for name, value in {
        "is_available": lambda: True,
        "_sleep": cycles.append,
        "current_stream": lambda: now,
        "Stream": lambda: types.SimpleNamespace(wait_event=lambda _: None),
        "stream": lambda _: nullcontext(),
        "synchronize": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return cycles


def test_streams_are_held_back_for_longer_where_launches_were_late(slept):
    device, other = cuda.CudaDevice(), cuda.CudaDevice()
    for _ in range(4):
        assert device.run_beside([lambda: 1, lambda: 2]) == [1, 2]
    other.run_beside([])
    assert slept == [4_000_000, 16_000_000, 64_000_000, 64_000_000, 4_000_000]
    assert device == other
