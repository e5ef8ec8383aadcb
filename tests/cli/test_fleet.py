"""The command `fleet`: what it prints, its exit codes, what it does without Ray; slices run in this process."""

import json
import os
import signal
import sys
from pathlib import Path
from types import ModuleType

import pytest

from indexfuzz.core import interrupts
from indexfuzz.fleet import work
from indexfuzz.fleet.shared import Shared, SharedError
from indexfuzz.fleet.slices import Lost, Result
from indexfuzz.fleet.work import run_slice

SIGNATURE = "gather/code-mismatch/k_scale"


class Machines:
    """In place of a cluster: slices run here, one after the other."""

    room = 2
    ending = staticmethod(run_slice)
    needs = None

    def __init__(self, address, needs):
        self.running = []
        type(self).needs = needs

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def is_busy(self):
        return bool(self.running)

    def submit(self, order, part):
        self.running.append((order, part))

    def wait(self, seconds):
        with interrupts.shielded():
            return [self.ending(*self.running.pop(0))]

    def stop(self):
        self.running.clear()


@pytest.fixture
def machines(monkeypatch):
    """The class of machines that the command uses."""
    cluster = ModuleType("indexfuzz.fleet.cluster")
    cluster.RayMachines = type("Ours", (Machines,), {})
    cluster.ClusterError = type("ClusterError", (Exception,), {})
    monkeypatch.setitem(sys.modules, "indexfuzz.fleet.cluster", cluster)
    return cluster.RayMachines


@pytest.fixture
def fleet(indexfuzz, machines, monkeypatch):
    """Run `indexfuzz fleet` in a folder of its own; -> (exit code, standard output, standard error)."""
    monkeypatch.setattr(work, "shows_in_fresh_process", lambda *_: True)
    toy = ("--impl", "module:toy_gather", "--no-isolate", "--seed", "3", "--slice-cases", "3", "--slices", "2")
    return lambda *words: indexfuzz("fleet", "--shared", "shared", *toy, *words)


def kept():
    return [str(entry.finding.signature) for _, entry in Shared("shared").entries("corpus")]


def test_a_finding_is_told_kept_and_known_the_next_time(fleet):
    code, out, err = fleet()
    assert (code, err) == (1, "")
    assert "fuzzing module:toy_gather on lockstep, seed 3: 2 slices of 3 cases, up to 2 at once" in out
    assert out.count(f"found {SIGNATURE} in slice 1") == 1
    assert "2 of 2 slices, 6 cases, 1 signature\n" in out
    assert f"new: {SIGNATURE}  corpus/gather/" in out
    assert kept() == [SIGNATURE]
    code, out, _ = fleet()
    assert (code, "new:" in out) == (0, False)
    assert len(list(Path("shared/logs").iterdir())) == 2


def test_right_kernels_are_green(fleet, monkeypatch):
    monkeypatch.setenv("TOY", "right")
    code, out, _ = fleet()
    assert (code, kept()) == (0, [])
    assert "done: 2 of 2 slices, 6 cases" in out


def test_as_json(fleet):
    code, out, err = fleet("--json")
    data = json.loads(out)
    assert code == 1
    assert [(part["number"], part["cases"]) for part in data["slices"]] == [(1, 3), (2, 3)]
    assert [new["signature"] for new in data["new"]] == [SIGNATURE]
    assert (data["lost"], data["left_out"], data["interrupted"], data["kept"]) == ([], [], 0, 1)
    assert Path(data["shared"], data["log"]).exists()
    assert "slice 2" in err


def test_a_lost_slice_is_no_green(fleet, machines, monkeypatch):
    monkeypatch.setenv("TOY", "right")
    machines.ending = staticmethod(
        lambda order, part: Lost(part, "the node \x1bdied") if part.number == 2 else run_slice(order, part)
    )
    code, out, _ = fleet()
    assert code == 1
    assert "slice 2 was lost: the node ?died" in out
    assert "again: indexfuzz run --seed 3 --shard 2/2 --cases 3 --values normal --impl module:toy_gather" in out


def test_where_nothing_was_tried_it_is_no_green(fleet, machines):
    machines.ending = staticmethod(lambda order, part: Result(part.number, "node"))
    code, out, _ = fleet()
    assert code == 2
    assert "no stage was tried" in out


@pytest.mark.parametrize(("mode", "code"), [("wrong", 1), ("right", 128 + signal.SIGTERM)])
def test_a_signal_ends_it_with_everything_saved(fleet, machines, monkeypatch, mode, code):
    monkeypatch.setenv("TOY", mode)

    def struck(order, part):
        result = run_slice(order, part)
        os.kill(os.getpid(), signal.SIGTERM)
        return result

    machines.ending = staticmethod(struck)
    got, out, _ = fleet("--slices", "9")
    assert got == code
    assert "interrupted by SIGTERM: " in out
    assert kept() == ([SIGNATURE] if mode == "wrong" else [])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--impl", "module:nowhere"), "slice 1 on "),
        (("--shared", "nonsense://x"), "nonsense"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(fleet, words, message):
    code, _, err = fleet(*words)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {message}") or message in err


def test_no_room(fleet, machines):
    machines.room = 0
    code, _, err = fleet("--device", "cuda", "--accelerator", "H100")
    assert (code, err.count("\n")) == (2, 1)
    assert "no machine of the cluster has a core and 1 GPUs of type H100" in err
    assert machines.needs.gpus == 1.0
    assert fleet("--parallel", "2")[0] == 1


def test_a_folder_that_fails(fleet, monkeypatch):
    def fail(*_):
        raise SharedError("shared/a: gone")

    monkeypatch.setattr(Shared, "write", fail)
    code, _, err = fleet()
    assert (code, err) == (2, "error: shared/a: gone\n")


def test_without_ray_it_says_what_to_install(indexfuzz, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "indexfuzz.fleet.cluster", raising=False)
    code, _, err = indexfuzz("fleet", "--shared", "shared")
    assert (code, err.count("\n")) == (2, 1)
    assert "fleet needs Ray" in err
    assert "pip install 'indexfuzz[fleet]'" in err
    assert not Path("shared").exists()
