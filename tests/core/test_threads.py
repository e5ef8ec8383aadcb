"""A program has one thread, unless somebody asks for more."""

import os
import subprocess
import sys

from indexfuzz.core import threads

SCRIPT = """
import atexit, os, sys

def count():
    import numpy
    sys.stderr.write(str(len(os.listdir("/proc/self/task"))))

atexit.register(count)
sys.argv = ["indexfuzz", "presets"]
from indexfuzz.__main__ import start
start()
"""


def test_what_is_asked_for_stays():
    environment = {"OMP_NUM_THREADS": "3"}
    threads.take_one(environment)
    assert environment == {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def test_numpy_starts_no_threads_in_a_program(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in threads.BLAS}
    command = [sys.executable, "-c", SCRIPT]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert (run.returncode, run.stderr) == (0, "1")
