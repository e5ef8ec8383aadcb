"""A slice in this process: what it finds is in the shared folder while it runs, and when it is told to end."""

import os
import signal
from pathlib import Path

import pytest

from indexfuzz import __version__
from indexfuzz.campaign import jobs
from indexfuzz.campaign.log import End
from indexfuzz.campaign.log_reader import read_lines
from indexfuzz.core.setup import Setup
from indexfuzz.corpus.entry import Entry
from indexfuzz.fleet import work
from indexfuzz.fleet.shared import Shared, SharedError
from indexfuzz.fleet.slices import Lost, Order, Slice
from indexfuzz.fleet.work import run_slice

SIGNATURE = "gather/code-mismatch/k_scale"


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    """A user's kernels; to try a case in another process takes seconds, and is no matter of these tests."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    monkeypatch.setattr(work, "shows_in_fresh_process", lambda *_: True)


def order(folder, **more):
    what = {"setup": Setup("module:toy_gather", isolate=False), "version": __version__, "seed": 3, "slices": 4}
    return Order(**(what | {"url": str(folder), "name": "now", "cases": 3} | more))


def kept(folder):
    return {name: entry for name, entry in Shared(str(folder)).entries("slices") if isinstance(entry, Entry)}


def test_what_a_slice_finds_is_in_the_shared_folder(tmp_path):
    result = run_slice(order(tmp_path), Slice(2))
    assert (result.number, result.cases, result.signatures, result.error) == (2, 3, (SIGNATURE,), "")
    assert result.implementation == "toy 1.0"
    assert "stage gather" in result.reached
    ((name, entry),) = kept(tmp_path).items()
    assert name.startswith("slices/now/00002/corpus/gather/")
    assert (str(entry.finding.signature), entry.status) == (SIGNATURE, "open")
    start, *_, end = read_lines(tmp_path / "slices/now/00002/run.jsonl")
    assert (start.seed, start.shard, end.cases) == (3, (2, 4), 3)


def test_the_same_slice_is_the_same_again_and_another_one_another(tmp_path):
    one, same, other = (run_slice(order(tmp_path, cases=6), Slice(number, ("zeros",))) for number in (2, 2, 3))
    assert one.reached == same.reached
    assert one.reached != other.reached


def test_masks_are_among_what_is_reached_where_they_can_be_seen(tmp_path):
    result = run_slice(order(tmp_path, setup=Setup(), cases=8, only=frozenset({"gather"})), Slice(1))
    assert any("gather.py:" in thing and "mask" in thing for thing in result.reached), sorted(result.reached)


def test_what_is_known_is_no_news(tmp_path):
    before = run_slice(order(tmp_path / "a"), Slice(2))
    known = frozenset({("toy 1.0", SIGNATURE), ("another", "gather/crash/E")})
    result = run_slice(order(tmp_path / "b"), Slice(2, (), known, before.reached))
    assert (result.signatures, result.reached, kept(tmp_path / "b")) == ((), frozenset(), {})
    elsewhere = run_slice(order(tmp_path / "c"), Slice(2, (), frozenset({("another", SIGNATURE)})))
    assert elsewhere.signatures == (SIGNATURE,)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_slice_that_is_told_to_end_saves_what_it_found(tmp_path, monkeypatch, number):
    there = []

    def strike(*_arguments, **_more):
        there.extend(kept(tmp_path).values())
        os.kill(os.getpid(), number)

    monkeypatch.setattr(jobs, "minimise", strike)
    result = run_slice(order(tmp_path), Slice(2))
    assert [entry.status for entry in there] == ["unconfirmed"], "the moment it is seen"
    assert (result.interrupted, result.signatures) == (number, (SIGNATURE,))
    (entry,) = kept(tmp_path).values()
    assert entry.status == "unconfirmed"
    *_, end = read_lines(tmp_path / "slices/now/00002/run.jsonl")
    assert isinstance(end, End)


def test_a_folder_that_fails_for_a_while_is_no_end(tmp_path, monkeypatch):
    write, calls = Shared.write, []

    def fail_first(self, name, content):
        calls.append(name)
        if len(calls) == 1:
            raise SharedError("gone")
        write(self, name, content)

    monkeypatch.setattr(Shared, "write", fail_first)
    assert run_slice(order(tmp_path), Slice(2)).signatures == (SIGNATURE,)
    assert len(kept(tmp_path)) == 1


def test_a_folder_that_fails_in_the_end_is_told(tmp_path, monkeypatch):
    def fail(*_):
        raise SharedError("gone")

    monkeypatch.setattr(Shared, "upload", fail)
    with pytest.raises(SharedError):
        run_slice(order(tmp_path), Slice(2))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"version": "0.0.1"}, "the fleet was started by 0.0.1"),
        ({"setup": Setup("module:nowhere_to_be_found", isolate=False)}, "nowhere_to_be_found"),
        ({"setup": Setup(device="nonsense")}, "nonsense"),
    ],
)
def test_a_slice_that_cannot_be_run_says_why(tmp_path, more, message):
    assert message in run_slice(order(tmp_path, **more), Slice(1)).error


def test_the_command_that_runs_a_slice_here():
    whole = order("x", cases=None, seconds=30.0, only=frozenset({"gather"}), preset="deepseek-v3.2")
    assert whole.command(Slice(3, ("ties",))) == (
        "indexfuzz run --seed 3 --shard 3/4 --seconds 30 --stage gather --values ties --preset deepseek-v3.2 "
        "--impl module:toy_gather --no-isolate --workers 2"
    )
    assert Lost(Slice(3), "it died").number == 3
