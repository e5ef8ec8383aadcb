"""A seed gives the same cases in every process: none depends on the order of a set, which is another one in each."""

import os
import subprocess
import sys

SCRIPT = """
import torch
from indexfuzz.campaign.events import CaseRun
from indexfuzz.campaign.loop import run_whole
from indexfuzz.campaign.settings import Settings
from indexfuzz.core.setup import Setup
from indexfuzz.subjects.open import prepare

torch.set_num_threads(1)

def tell(event):
    if isinstance(event, CaseRun):
        print(event.outcome.case.id)

run_whole(Settings(prepare(Setup()).subject, seed=5, cases=40), tell)
"""


def test_processes_with_other_hashes_of_words_draw_and_steer_alike():
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env=os.environ | {"PYTHONHASHSEED": hashes},
            stdout=subprocess.PIPE,
            text=True,
        )
        for hashes in ("1", "2")
    ]
    first, second = (process.communicate()[0].split() for process in running)
    assert len(first) == 40
    assert first == second
