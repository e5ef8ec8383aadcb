"""A seed gives the same cases in every process, and in several: none depends on the order of a set of words."""

import os
import subprocess
import sys

SCRIPT = """
import sys
import torch
from indexfuzz.campaign.events import CaseRun
from indexfuzz.campaign.loop import run_whole
from indexfuzz.campaign.member import Hire
from indexfuzz.campaign.pool import Pool
from indexfuzz.campaign.settings import Settings
from indexfuzz.core.setup import Setup
from indexfuzz.subjects.open import prepare

torch.set_num_threads(1)
size = int(sys.argv[1])

def tell(event):
    if isinstance(event, CaseRun):
        print(event.outcome.case.id)

crew = Pool(Hire(Setup(), journal=False, drawing={"seed": 5}), size) if size > 1 else None
run_whole(Settings(prepare(Setup()).subject, seed=5, cases=40), tell, crew)
"""


def start(hashes, processes):
    """Cases of the built-in kernels, some of them steered; words have other hashes in each process that is started."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(processes)],
        env=os.environ | {"PYTHONHASHSEED": hashes},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_with_other_hashes_of_words_draw_and_steer_alike_one_or_three():
    running = [start("1", 1), start("2", 1), start("3", 3)]
    first, second, third = (process.communicate()[0].split() for process in running)
    assert len(first) == 40
    assert first == second == third
