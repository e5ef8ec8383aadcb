"""Rehearsals: launchers are called without their kernels, and decide what they do when a case is run."""

import os
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.core.stage_names import FORWARD
from indexfuzz.devices import open_device
from indexfuzz.evaluation.mutation.guarded import look_at
from indexfuzz.evaluation.mutation.guards import features
from indexfuzz.generation.stream import stream_cases
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults.planting import import_source
from indexfuzz.kernels.gather import gather
from indexfuzz.oracles.rehearsal import MOST_LAUNCHES, NEVER_COMPILE, rehearse
from indexfuzz.stages.base import Call
from indexfuzz.stages.table import OPERATIONS, STAGES
from indexfuzz.subjects.in_process import InProcess

LOCKSTEP = open_device("lockstep")
CASE = Case().replace(
    model={"num_heads": 2},
    cache={"block_size": 16},
    batch={"decode": (5, 30), "prefill": ({"length": 40, "new": 7},), "max_model_len": 64, "next_n": 2},
)


@pytest.fixture(scope="module")
def drawn():
    subject = InProcess(builtin(), LOCKSTEP)
    return [subject.narrow(case) for case in islice(stream_cases(21, LOCKSTEP.formats), 12)]


def test_a_launcher_decides_in_a_rehearsal_what_it_decides_in_a_run(drawn):
    subject, compared = InProcess(builtin(), LOCKSTEP), 0
    for case in drawn[:4]:
        of_stages = {one for seen in subject.rehearse(case, ("gather",)).values() for one in seen}
        files = {one.file for one in of_stages}
        comparisons = subject.run(case, frozenset({"gather"})).comparisons
        run = {one for one in comparisons if one.file in files and not one.inside}
        assert of_stages == run
        compared += len(run)
    assert compared


def test_the_whole_decides_in_a_rehearsal_what_it_decides_in_a_run_and_no_launcher_does(drawn):
    subject, decided = InProcess(builtin(), LOCKSTEP), set()
    for case in drawn[:4]:
        seen = subject.rehearse(case)
        whole = {one for one in seen.get(FORWARD, ()) if one.file.endswith("kernels/indexer.py")}
        comparisons = subject.run(case).comparisons
        assert whole <= set(comparisons)
        launchers = {one.place for stage, compared in seen.items() if stage != FORWARD for one in compared}
        assert not launchers & {one.place for one in seen.get(FORWARD, ())}
        decided |= {(one.text, one.holds) for one in whole}
    assert decided >= {("decode", True), ("prefill", True)}


def test_the_whole_is_rehearsed_where_it_is_there_and_asked_for():
    whole = InProcess(builtin(), LOCKSTEP)
    assert FORWARD in whole.rehearse(CASE)
    assert set(whole.rehearse(CASE, (FORWARD,))) == {FORWARD}
    assert FORWARD not in whole.rehearse(CASE, ("rope",))
    assert FORWARD not in whole.rehearse(CASE.replace(cache={"block_size": 8}))  # beyond the contract of a stage
    assert FORWARD not in whole.rehearse(CASE.replace(values={"k": "nonfinite"}))  # of which it is not asked
    stages = InProcess(replace(builtin(), forward=None), LOCKSTEP)
    assert FORWARD not in stages.rehearse(CASE)


def known(looked):
    """What guards see, but for words that a stage has made, which rehearsals have not: exponents of gathered keys."""
    return {source: value for source, value in looked.items() if not source.startswith("(int(k_scale.")}


def test_arguments_are_where_they_would_be_and_integers_hold_what_they_would(drawn):
    """Guards may look at anything that launchers look at: sizes, strides, alignment, what integers hold."""
    looked = {}

    def looking(stage):
        def function(**arguments):
            tensors = {name: value for name, value in arguments.items() if hasattr(value, "stride")}
            options = {name: value for name, value in arguments.items() if name not in tensors}
            looked[stage] = features(Call(tensors, options))

        return function

    names = [stage.name for stage in (*OPERATIONS, *STAGES)]
    implementation = Implementation("looking", {name: looking(name) for name in names}, builtin().contract)
    for case in drawn:
        looked.clear()
        rehearse(case, implementation, LOCKSTEP)
        want = look_at(case)
        assert looked
        for stage, seen in looked.items():
            assert known(seen) == known(want[stage]), stage


def test_no_kernel_runs():
    given = {}

    def topk(*, logits, index_topk):
        given["logits"] = logits.clone()
        return builtin().stages["topk"](logits=logits, index_topk=index_topk)

    implementation = Implementation("mine", builtin().stages | {"topk": topk}, builtin().contract)
    rehearse(CASE, implementation, LOCKSTEP, ("topk",))
    assert bool(given["logits"].isnan().all())  # as they are before anything is written


@pytest.mark.parametrize("when", ["before", "within"])
def test_nothing_is_compiled_for_a_rehearsal(monkeypatch, when):
    compiled, returned = [], []

    def backend(graph, _inputs):
        compiled.append(graph)
        return graph.forward

    def double(x):
        return x + x

    before = torch.compile(double, backend=backend)
    if when == "within":  # as where nothing has been given to torch.compile yet
        monkeypatch.setattr("indexfuzz.oracles.rehearsal.sys", SimpleNamespace(modules={}))

    def topk(*, logits, index_topk):
        function = before if when == "before" else torch.compile(double, backend=backend)
        returned.append(function(torch.zeros(logits.shape[0])))

    rehearse(CASE, Implementation("mine", {"topk": topk}, builtin().contract), LOCKSTEP)
    assert returned
    assert not compiled
    assert NEVER_COMPILE not in os.environ
    topk(logits=torch.zeros(2, 2), index_topk=1)
    assert compiled


def test_a_launcher_that_raises_or_never_ends_has_compared_what_it_did():
    def raising(**arguments):
        if arguments["quant_group"] == 3:
            return
        raise KeyError("as without its kernels")

    def waiting(**arguments):
        while True:
            gather(**arguments)

    for function in (raising, waiting):
        found = rehearse(CASE, Implementation("mine", {"gather": function}, builtin().contract), LOCKSTEP)
        assert "gather" in found
    assert MOST_LAUNCHES < 10_000


WAITING = """
from contextlib import suppress

def gather(*, cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, quant_group, layout):
    rounds = 0
    while k_scale.isnan().any():
        rounds += 1
        with suppress(Exception):
            if rounds > 3:
                block_table, cu_seqlens = cu_seqlens, block_table
                raise RuntimeError("try again")
    raise RuntimeError("it ended")
"""


def test_a_launcher_that_waits_without_launching_ends_after_as_many_conditions_on_every_machine(monkeypatch):
    waiting = import_source("indexfuzz_kernels_with_waiting", WAITING, "rehearsed/waiting.py")
    subject = InProcess(Implementation("mine", {"gather": waiting.gather}, builtin().contract), LOCKSTEP)
    with monkeypatch.context() as patch:
        patch.setattr("indexfuzz.oracles.rehearsal.MOST_CONDITIONS", 20)
        found = subject.rehearse(CASE)["gather"]
    assert {(one.text, one.holds, one.left) for one in found} == {
        ("rounds > 3", n > 3, n)
        for n in range(1, 9)  # no more of one condition are kept
    }
    assert subject.rehearse(CASE)["gather"] == found


def test_sessions_are_left_alone():
    session = {"steps": ({"turns": ({"request": 0, "new": 20},)},)}
    case = Case().replace(cache={"block_size": 16}, batch={"max_model_len": 20}, session=session)
    assert rehearse(case, builtin(), LOCKSTEP) == {}
