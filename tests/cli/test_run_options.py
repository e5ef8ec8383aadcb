"""How many processes run cases, by what was typed."""

import pytest

from indexfuzz.campaign.chunk import CHUNK
from indexfuzz.cli import run_options
from indexfuzz.cli.run_options import MOST_ON_A_GPU, RunOptions


def options(**typed):
    return RunOptions(**({"faults": [], "stage": [], "values": []} | typed))


@pytest.mark.parametrize(
    ("typed", "processes"),
    [
        ({}, 64),
        ({"workers": 3}, 3),
        ({"device": "cuda"}, MOST_ON_A_GPU),
        ({"device": "cuda", "workers": 40}, 40),
        ({"device": "cuda", "sanitize": "memcheck"}, 1),
        ({"coverage": True}, 1),
        ({"cases": 3 * CHUNK}, 3),
        ({"cases": 3 * CHUNK, "workers": 2}, 2),
        ({"faults": ["relu-after-sum"]}, 1),
        ({"faults": ["relu-after-sum"], "seconds": 5.0}, 64),
    ],
)
def test_every_core_has_a_process_unless_one_is_enough(monkeypatch, typed, processes):
    monkeypatch.setattr(run_options, "available_cores", lambda: 64)
    assert options(**typed).processes == processes


def test_a_small_machine_with_a_gpu_has_no_more_than_its_cores(monkeypatch):
    monkeypatch.setattr(run_options, "available_cores", lambda: 4)
    assert options(device="cuda").processes == 4
