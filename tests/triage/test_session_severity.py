"""Recall of sessions: whole where keys are right, less by one key or by all of them, none where a step fails."""

import json

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.corpus.entry import Entry, Record
from indexfuzz.corpus.store import Corpus
from indexfuzz.devices import open_device
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults import plant
from indexfuzz.triage import session_severity
from indexfuzz.triage.recall import SeverityError
from indexfuzz.triage.session_severity import keys_at_end
from indexfuzz.triage.severity import grow, recall

DEVICE = open_device("lockstep")


@pytest.fixture(autouse=True)
def few_keys(monkeypatch):
    monkeypatch.setattr(session_severity, "KEYS", 64)
    monkeypatch.setattr(session_severity, "HEADS", 4)


def session_of(node, *turns, **more):
    steps = tuple({"turns": ({"request": 0} | turn,)} for turn in turns)
    form = {"node": node, "ratio": 4, "steps": steps} | more
    model = {"head_dim": 32, "quant_group": 32, "scale_fmt": "ue8m0"}
    return Case().replace(
        model=model, cache={"block_size": 4, "layout": "normal"}, batch={"max_model_len": 128}, session=form
    )


def two_chunks(node):
    return session_of(node, {"new": 2}, {"new": 2})


def test_requests_come_with_keys_of_their_own_and_the_story_stays():
    steps = (
        {"turns": ({"request": 0, "new": 3}, {"request": 1, "new": 1})},
        {"forks": ({"parent": 0, "child": 2},), "turns": ({"request": 2, "new": 1},), "free": (1,)},
        {"turns": ({"request": 1, "new": 1, "drafts": 2},), "free": (0,)},
    )
    grown = grow(session_of("compress", steps=steps), "compress").session.steps
    assert [[(turn.request, turn.new) for turn in step.turns] for step in grown] == [
        [(0, 256), (1, 256)],
        [(0, 3), (1, 1)],
        [(2, 1)],
        [(1, 256)],
        [(1, 1)],
    ]
    assert [(fork.parent, fork.child) for fork in grown[2].forks] == [(0, 2)]
    assert grown[2].free == (1,)
    assert (grown[4].turns[0].accepted, grown[4].free) == (2, ())


def test_pages_are_filled_and_an_eighth_of_the_keys_is_selected():
    grown = grow(two_chunks("pool"), "pool")
    assert keys_at_end(grown) == {0: 65}
    assert (grown.model.index_topk, grown.model.num_heads, grown.values.k) == (8, 4, "normal")


def test_what_has_too_few_keys_is_refused():
    with pytest.raises(SeverityError, match="cannot hold enough keys"):
        grow(session_of("compress", {"new": 128}, ratio=128), "compress")
    with pytest.raises(SeverityError, match="stands for several tokens"):
        grow(session_of("none", {"new": 1}, ratio=1), "k_quant_cache")


@pytest.mark.parametrize("node", ["compress", "pool", "fused_compress", "fused_pool", "compress_norm"])
def test_right_kernels_select_everything(node):
    found = recall(grow(two_chunks(node), node), builtin(), DEVICE)
    assert (found.mean, found.worst, found.rows, found.failed) == (1.0, 1.0, 64, "")
    assert 0.1 < found.blind < 0.2


def test_a_key_that_a_chunk_spoils_costs_one_selection_at_most():
    case = grow(two_chunks("compress"), "compress")
    found = recall(case, plant(("compress-groups-from-chunk-start",)), DEVICE)
    assert 0.95 < found.mean < 1
    assert found.worst == 7 / 8


def test_keys_that_are_all_wrong_cost_most_of_them():
    found = recall(grow(two_chunks("pool"), "pool"), plant(("pool-not-rotated",)), DEVICE)
    assert found.mean < 0.4


def test_a_key_that_is_not_said_to_be_visible_is_not_selected():
    case = grow(session_of("compress", {"new": 4}), "compress")
    found = recall(case, plant(("compress-visible-counts-tokens",)), DEVICE)
    assert found.mean == 1.0  # there is nothing beyond the keys of a request
    hidden = builtin().stages["compress"]

    def sees_none(**arguments):
        hidden(**arguments)
        arguments["visible"].zero_()

    blind = plant(())
    blind.stages["compress"] = sees_none
    assert recall(case, blind, DEVICE).mean == 0.0


def test_a_step_that_fails_selects_nothing():
    def fails(**_):
        raise RuntimeError("no such ring")

    faulty = plant(())
    faulty.stages["compress"] = fails
    found = recall(grow(two_chunks("compress"), "compress"), faulty, DEVICE)
    assert (found.mean, found.failed) == (0.0, "RuntimeError: no such ring")


def test_an_operation_that_promises_nothing_about_the_session_is_not_asked():
    case = grow(two_chunks("compress"), "compress")
    fused = grow(two_chunks("fused_compress"), "fused_compress")
    with pytest.raises(SeverityError, match="outside the contract: SHUFFLE pages"):
        recall(fused.replace(cache={"layout": "shuffle"}), builtin(), DEVICE)
    with pytest.raises(SeverityError, match="no layout is defined"):
        recall(case.replace(cache={"layout": "shuffle"}), builtin(), DEVICE)


def test_the_command_tells_the_cost_of_a_session(tmp_path, indexfuzz):
    entry = Entry(case=two_chunks("pool"), finding=Record.of(Finding("pool", "bound-exceeded", "keys", "not rotated")))
    file = Corpus(tmp_path).save(entry)
    code, out, _ = indexfuzz("severity", file, "--fault", "pool-not-rotated")
    assert code == 0
    assert "of up to 65 keys" in out
    code, out, _ = indexfuzz("severity", file, "--fault", "pool-not-rotated", "--json")
    assert code == 0
    assert json.loads(out)["mean"] < 0.4
