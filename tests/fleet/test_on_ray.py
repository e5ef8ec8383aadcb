"""Slices on Ray: a node that is killed, Ctrl-C, processes that die. `make fleet` installs what that takes."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from indexfuzz import __version__
from indexfuzz.core.setup import Setup
from indexfuzz.fleet import work
from indexfuzz.fleet.budget import Budget
from indexfuzz.fleet.dispatch import SliceError
from indexfuzz.fleet.needs import Needs
from indexfuzz.fleet.shared import Shared, SharedError
from indexfuzz.fleet.slices import Order, Slice
from indexfuzz.fleet.work import run_slice

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed; `make fleet` installs it")

TESTS = Path(__file__).parents[1]
SIGNATURE = "gather/code-mismatch/k_scale"
PATIENCE = 600.0
NODES, SLICES, CASES = 2, 4, 3


@pytest.fixture
def held(tmp_path, monkeypatch):
    """The folder by which slices of toy_held are held; the environment that all nodes inherit."""
    folder = tmp_path / "held"
    folder.mkdir()
    monkeypatch.setenv("HELD", str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(TESTS), str(TESTS / "fleet"))))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else they wait for all that runs beside
    return folder


def words(*more):
    command = [sys.executable, "-m", "indexfuzz", "fleet", "--shared", "shared", "--seed", "3", "--json"]
    return [*command, "--impl", "module:toy_held", "--no-isolate", "--slice-cases", str(CASES), *more]


def start(folder, *more):
    """Start the command in a folder and a process group of its own."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words(*more), cwd=folder, start_new_session=True, **pipes)


def wait_for_slices(folder, count):
    """Wait until so many have begun."""
    ends = time.monotonic() + PATIENCE
    while (found := len(list(folder.glob("begun-*")))) < count:
        assert time.monotonic() < ends, f"{found} slices have begun"
        time.sleep(0.02)


def signatures(folder):
    return [str(entry.finding.signature) for _, entry in Shared(str(folder / "shared")).entries("corpus")]


def run_alone(folder):
    """What the slices find in this process, without Ray."""
    setup, budget = Setup("module:toy_gather", isolate=False), Budget((), 2 * NODES)
    order = Order(setup, str(folder / "alone"), "now", __version__, 3, SLICES, cases=CASES)
    results = [run_slice(order, budget.next_slice()) for _ in range(SLICES)]
    return [[result.number, result.cases, list(result.signatures)] for result in results]


def test_what_becomes_of_a_slice_whose_task_fails(monkeypatch):
    ray, cluster = import_module("ray"), import_module("indexfuzz.fleet.cluster")
    failed = ray.exceptions.RayTaskError

    def ending_of(error):
        def get(reference):
            raise error

        monkeypatch.setattr(ray, "get", get)
        return cluster.RayMachines(None, Needs())._ending_of(None, Slice(7))

    assert ending_of(ray.exceptions.TaskCancelledError()) is None
    assert ending_of(ray.exceptions.WorkerCrashedError()).number == 7
    with pytest.raises(SliceError, match="slice 7: shared/a: gone"):
        ending_of(failed("run_slice", "trace", SharedError("shared/a: gone")))
    with pytest.raises(SliceError, match="do not have IndexFuzz"):
        ending_of(failed("run_slice", "ModuleNotFoundError: No module named 'indexfuzz'", RuntimeError()))
    with pytest.raises(cluster.FailedError, match="slice 7: KeyError: 'x'"):
        ending_of(failed("run_slice", "trace", KeyError("x")))


@pytest.mark.filterwarnings("default")
def test_a_node_is_killed_in_the_midst_and_nothing_is_lost(held, tmp_path, monkeypatch):
    head = {"num_cpus": 0, "include_dashboard": False}
    cluster = import_module("ray.cluster_utils").Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(NODES)]
        run = start(tmp_path, "--address", cluster.address, "--slices", str(SLICES))
        wait_for_slices(held, NODES)
        cluster.remove_node(nodes[1], allow_graceful=False)
        (held / "go").touch()
        out, err = run.communicate(timeout=PATIENCE)
    finally:
        cluster.shutdown()
    assert run.returncode == 1, err
    data = json.loads(out)
    assert (data["lost"], data["left_out"], data["interrupted"]) == ([], [], 0)
    assert len(list(held.glob("begun-*"))) == SLICES + 1, "that of the dead node has begun again, each in a new process"
    assert signatures(tmp_path) == [SIGNATURE]
    monkeypatch.syspath_prepend(TESTS)
    monkeypatch.setattr(work, "shows_in_fresh_process", lambda *_: True)
    told = [[part[name] for name in ("number", "cases", "signatures")] for part in data["slices"]]
    assert told == run_alone(tmp_path)
    assert not Shared(str(tmp_path / "shared")).names("slices")


def test_ctrl_c_ends_it_and_what_was_found_is_kept(held, tmp_path):
    """At a terminal Ctrl-C comes to all processes of the command; here, too."""
    run = start(tmp_path, "--slices", "50", "--slice-cases", "1000000")
    wait_for_slices(held, 1)
    (held / "go").touch()
    ends = time.monotonic() + PATIENCE
    while not Shared(str(tmp_path / "shared")).names("slices"):
        assert time.monotonic() < ends, "nothing was found"
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGINT)
    out, err = run.communicate(timeout=PATIENCE)
    data = json.loads(out)
    assert (run.returncode, data["interrupted"], data["lost"]) == (1, signal.SIGINT, []), err
    assert signatures(tmp_path) == [SIGNATURE]
    assert data["log"]
    assert "Traceback" not in err


def test_a_slice_that_kills_its_process_is_lost_and_said_how_to_run_again(held, tmp_path, monkeypatch):
    monkeypatch.setenv("TOY", "die")
    (held / "go").touch()
    run = start(tmp_path, "--slices", "1", "--slice-cases", "60", "--retries", "1")
    out, err = run.communicate(timeout=PATIENCE)
    assert run.returncode == 1, err
    (lost,) = json.loads(out)["lost"]
    assert lost["number"] == 1
    assert "indexfuzz run --seed 3 --shard 1/1 --cases 60 --impl module:toy_held" in lost["again"]
    assert len(list(held.glob("begun-*"))) == 2
