"""Campaigns still find planted bugs, and quickly: a part of the bench, so that nobody weakens the fuzzer unnoticed."""

import math
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import pytest
import torch

from indexfuzz.core.finding import Finding
from indexfuzz.devices import open_device
from indexfuzz.evaluation.bench import detection
from indexfuzz.evaluation.bench.baseline import GRIDS, calc_diff, similar_logits, similar_visible_logits
from indexfuzz.evaluation.bench.detection import (
    Detection,
    campaign_sight,
    compare,
    detect,
    is_clean,
    join,
    stream_sight,
)
from indexfuzz.evaluation.bench.detection_report import as_markdown
from indexfuzz.evaluation.bench.uniform import uniform
from indexfuzz.generation import strategies
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults import load_faults, plant
from indexfuzz.oracles import schedule
from indexfuzz.triage.minimize import NotFailingError

DEVICE = open_device("lockstep")
ROOT = Path(__file__).parents[3]
HISTORY = frozenset(
    {
        "layout-hardcoded-shuffle",
        "layout-preshuffle-64-only",
        "rope-result-discarded",
        "layout-flat-writer",
        "layout-interleaved-reader",
        "table-column-is-token",
        "page-first-token-only",
        "page-size-stale",
        "table-odd-width",
        "offset-int32-values",
        "offset-int32-scales",
        "slot-negative-written",
        "lens-below-next-n",
        "causal-next-n",
        "ks-offset",
        "tail-page-unmasked",
        "columns-unwritten",
        "heads-below-tile",
        "scale-not-ue8m0",
        "scale-zero-amax",
        "scale-wrong-max",
        "scale-of-neighbour",
        "fnuz-bitcast",
        "relu-after-sum",
        "weights-bf16",
        "rope-style-swapped",
        "rope-placement-swapped",
        "duplicate-writers",
    }
)
ONCE_MISSED = frozenset({"logits-taken-for-dense", "offset-of-another-row"})
"""Faults that the generator and the oracles did not find when they were first tried."""

RARE = frozenset({"offset-int32-values", "offset-int32-scales", "lens-below-next-n"})
"""Those that take more than a few dozen cases; test_far_pages.py has a case for each offset."""


def test_every_bug_of_the_history_can_be_planted():
    assert set(load_faults()) >= HISTORY


@pytest.mark.parametrize("name", sorted((HISTORY | ONCE_MISSED) - RARE))
def test_a_campaign_finds_it_and_blames_the_right_stage(name):
    fault = load_faults()[name]
    sight = campaign_sight(plant((name,)), DEVICE, seed=1, most=120)
    assert sight is not None
    assert is_clean(sight.case, DEVICE)
    assert sight.finding.stage in (fault.stage, *fault.also)


def test_a_mistake_in_what_several_operations_call_may_show_in_each():
    """Who calls quantise_rows is read from the sources; operations of several nodes bear the names of their files."""
    text = Path(ROOT, "kernels", "quant.py").read_text()
    shared = text[text.index("def quantise_rows") : text.index("@triton.jit(")]
    callers = {"cache": {"k_quant_cache"}, "quant": {"q_quant"}, "fused": {"fused_q", "fused_k"}, "scales": set()}
    files = [path.stem for path in Path(ROOT, "kernels").glob("*.py") if " = quantise_rows(" in path.read_text()]
    stages = set().union(*(callers.get(name, {name}) for name in files))
    inside = [fault for fault in load_faults().values() if any(edit.old in shared for edit in fault.edits)]
    assert len(inside) >= 4
    assert all({fault.stage, *fault.also} == stages for fault in inside)


def test_an_operation_that_dies_is_blamed_without_a_node():
    fault = load_faults()["fused-compress-scale-never-packed"]

    def blamed(kind, detail):
        return fault.is_blamed_by(Finding("fused_compress", kind, "cache_scales", detail=detail))

    assert fault.node == "k_quant_cache"
    assert blamed("code-mismatch", "k_quant_cache: one byte is wrong")
    assert not blamed("code-mismatch", "compress: one byte is wrong")
    assert blamed("crash", "a type is wrong")


def test_a_generator_without_gaps_between_rows_would_be_noticed(monkeypatch):
    monkeypatch.setattr(strategies, "MEMORY", {name: options[:1] for name, options in strategies.MEMORY.items()})
    monkeypatch.setattr(strategies, "ANY_PADS", {})
    assert campaign_sight(plant(("logits-taken-for-dense",)), DEVICE, seed=1, most=60) is None


def test_oracles_that_look_at_stages_alone_would_be_noticed(monkeypatch):
    others = [oracle for oracle in schedule.OTHERS if oracle.name != "composition"]
    monkeypatch.setattr(schedule, "OTHERS", others)
    assert campaign_sight(plant(("offset-of-another-row",)), DEVICE, seed=1, most=60) is None


def test_planted_together_each_stage_is_blamed_for_its_own():
    several = plant(("fnuz-bitcast", "relu-after-sum", "rope-placement-swapped", "weights-bf16"))
    seen = set()
    for seed in range(3):
        sight = campaign_sight(several, DEVICE, seed=seed, most=300)
        assert sight is not None
        seen.add(sight.finding.stage)
    assert seen <= {"rope", "k_quant_cache", "prefill_logits", "paged_logits"}


def test_a_minimal_case_is_reported(monkeypatch):
    monkeypatch.setattr(detection, "MINIMISE_SECONDS", math.inf)
    found = detect(load_faults()["relu-after-sum"], DEVICE, seeds=(0,))
    assert (found.sequences, found.tokens, found.steps) == (1, 1, None)
    assert found.rightly_blamed
    table = as_markdown([vars(found)], seeds=1, seconds=60.0, plain_seconds=10.0)
    assert "| relu-after-sum | paged_logits | 1/1 |" in table


def test_the_steps_requests_and_tokens_of_a_minimal_session_are_reported(monkeypatch):
    monkeypatch.setattr(detection, "MINIMISE_SECONDS", math.inf)
    found = detect(load_faults()["compress-groups-from-chunk-start"], DEVICE, seeds=(0,))
    assert (found.sequences, found.steps) == (1, 2)
    assert 2 <= found.tokens <= 4
    table = as_markdown([vars(found)], seeds=1, seconds=60.0, plain_seconds=10.0)
    assert f"| 1, {found.tokens} (2) |" in table
    assert "1 of 1 minimal sessions have at most 3 steps and 2 requests" in table
    assert "0 of 0 minimal cases of one step" in table
    long = as_markdown([vars(found) | {"steps": 4}], seeds=1, seconds=60.0, plain_seconds=10.0)
    assert "0 of 1 minimal sessions" in long


def test_what_took_an_earlier_launch_is_found_and_has_no_minimal_case(monkeypatch):
    def show_nothing(*_, **__):
        raise NotFailingError

    monkeypatch.setattr(detection, "minimise", show_nothing)
    found = detect(load_faults()["relu-after-sum"], DEVICE, seeds=(0,))
    assert len(found.cases) == 1
    assert (found.sequences, found.tokens, found.steps) == (None, None, None)


def test_nothing_is_found_in_clean_kernels():
    assert stream_sight(islice(uniform(0, DEVICE.formats), 20), builtin(), DEVICE) is None


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.project)
def test_grids_pass_on_clean_kernels(grid):
    assert grid.finds(builtin(), DEVICE) is None


def test_a_grid_sees_what_its_tolerance_lets_it_see():
    vllm = GRIDS[0]
    assert "paged_logits" in (vllm.finds(plant(("relu-after-sum",)), DEVICE) or "")
    assert vllm.finds(plant(("columns-unwritten",)), DEVICE) is None


def test_calc_diff_overlooks_a_lost_token_of_a_thousand():
    want = torch.ones(1024)
    got = want.clone()
    got[7] = 0
    assert 0 < calc_diff(got, want) < 1e-3
    assert calc_diff(want, want) == 0
    assert calc_diff(torch.zeros(3), torch.zeros(3)) == 0


def test_only_one_of_the_similarities_looks_at_hidden_columns():
    want = torch.tensor([1.0, float("-inf")])
    got = torch.tensor([1.0, 5.0])
    assert similar_visible_logits(got, want)
    assert not similar_logits(got, want)


def test_the_page_says_what_the_first_run_over_a_fault_showed():
    known = load_faults()
    tried = [name for name, fault in known.items() if fault.first_sight]
    assert len(tried) >= 10
    assert not set(tried) & HISTORY
    found = Detection("topk-ties-cut", "topk", "topk", cases=[3], seconds=[0.1], blamed=["topk"])
    page = as_markdown([vars(found)], seeds=1, seconds=60.0, plain_seconds=10.0)
    assert f"| topk-ties-cut | {known['topk-ties-cut'].source} | {known['topk-ties-cut'].first_sight} | 1/1" in page


def test_a_campaign_without_feedback_is_measured_beside(monkeypatch):
    monkeypatch.setattr(detection, "UNIFORM_SECONDS", 0.0)
    steered = []

    def sight(*arguments, **more):
        steered.append(more["steered"])
        return campaign_sight(*arguments, **more)

    monkeypatch.setattr(detection, "campaign_sight", sight)
    found = Detection("relu-after-sum", "", "paged_logits", cases=[3], seconds=[0.1])
    compare(found, DEVICE, (0,), seconds=math.inf)
    assert steered == [False]
    (cases,) = found.unsteered_cases
    page = as_markdown([vars(found)], seeds=1, seconds=60.0, plain_seconds=10.0)
    assert f"| 1/1, {cases} | 0/1 |" in page
    assert "- Without coverage feedback, 60 s each: 1 found in all seeds." in page


def test_the_page_says_on_which_machines_how_many_searches_ran(monkeypatch):
    def search(machine):
        return vars(Detection("topk-ties-cut", "topk", "topk", cases=[3], seconds=[0.1], machines={machine: 1}))

    whole = join([search("A"), search("B"), search("A")])
    assert whole.machines == {"A": 2, "B": 1}
    page = as_markdown([vars(whole)], seeds=3, seconds=60.0, plain_seconds=10.0)
    assert "  - 2 with A\n  - 1 with B\n" in page
    monkeypatch.setattr(detection, "detect", lambda fault, *_, **__: Detection(fault.id, "", ""))
    monkeypatch.setattr(detection, "compare", lambda *_: None)
    assert detection.measure("relu-after-sum.1")["machines"] == {detection.this_machine(): 1}


def test_searches_for_a_fault_are_joined_and_a_run_that_was_stopped_goes_on(tmp_path, monkeypatch, capsys, one_process):
    searched = []

    def search(name):
        searched.append(name)
        fault, _, seed = name.rpartition(".")
        cases = [7] if seed == "1" else []
        return asdict(Detection(fault, "", "paged_logits", cases=cases, seconds=[0.5] * len(cases), signature=seed))

    (tmp_path / "docs").mkdir()
    for name, value in {"ROOT": tmp_path, "SEEDS": (0, 1), "GRIDS": (), "measure": search}.items():
        monkeypatch.setattr(detection, name, value)
    monkeypatch.setattr(detection, "load_faults", lambda: ["ks-offset", "relu-after-sum"])
    assert detection.main(as_json=False, faults=["ks-offset"]) == 1
    assert searched == ["ks-offset.0", "ks-offset.1"]
    seen, page = capsys.readouterr(), tmp_path / "docs" / "detection.md"
    assert "| ks-offset | paged_logits | 1/2 |" in seen.out
    assert "docs/detection.md stays as it is: 1 of 2 have all results" in seen.err
    assert not page.exists()
    assert detection.main(as_json=False) == 1
    assert searched[2:] == ["relu-after-sum.0", "relu-after-sum.1"]
    assert "- 0 of 2 faults found in all 2 seeds" in page.read_text()
