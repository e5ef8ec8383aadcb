"""The benchmark of the oracles, in a small form: ours see every mistake, the habits of the field do not."""

import json

import pytest
import torch

from indexfuzz.checks.logits import Expected, check_logits
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.evaluation.bench import oracle
from indexfuzz.evaluation.bench.mistakes import MISTAKES, RIGHT


@pytest.fixture(scope="module")
def rows():
    return {row["mistake"]: row for row in oracle.measure(oracle.SMALL)}


def test_no_correct_output_is_flagged_by_ours(rows):
    right = rows[RIGHT.name]
    assert {right["seen"][detector] for detector in oracle.OURS} == {0.0}
    assert right["changed"] == right["ours"] == 0


def test_torch_s_default_tolerance_flags_correct_outputs(rows):
    assert rows[RIGHT.name]["seen"]["assert_close"] == 0.5
    assert rows[RIGHT.name]["elements_beyond_assert_close"]["sm90"] > 0.1


@pytest.mark.parametrize("mistake", [mistake.name for mistake in MISTAKES])
def test_ours_see_every_mistake(mistake, rows):
    assert rows[mistake]["changed"] > 0
    assert rows[mistake]["ours"] == 1


@pytest.mark.parametrize(
    "mistake",
    [
        "one code of one key off by one step",
        "one token lost",
        "one stale column",
        "the scale of one token doubled",
        "every logit times 31/32",
        "weights rounded to bf16",
        "logits rounded to bf16",
    ],
)
def test_calc_diff_passes_what_ours_see(mistake, rows):
    assert rows[mistake]["seen"]["calc_diff"] == 0
    assert rows[mistake]["seen"]["T1"] == 1


def test_a_wider_window_is_seen_as_a_set_alone(rows):
    seen = rows["every window one key too wide"]["seen"]
    assert seen["bytes+set"] == 1
    assert seen["T1"] == 0


def test_an_ulp_in_a_scale_is_within_the_bounds_and_seen_in_exact_values(rows):
    seen = rows["the scale of one token off by one ulp"]["seen"]
    assert seen["T1"] == seen["T2"] == seen["T3"] == 0
    assert seen["T0"] == 1


def test_the_tiers_decide_as_the_judge_does():
    size = oracle.Size(rows=2, keys=64, heads=2, head_dim=64)
    for model in oracle.UNITS:
        device = LockstepDevice(dot=model)
        for bench in oracle._benches(size, model, 3):
            for mistake in (RIGHT, *MISTAKES):
                got = mistake.logits(bench.inputs, device)
                seen = bench.flag(mistake, got)
                for tier, limits in bench.limits.items():
                    shown = torch.where(limits.visible, got, float("-inf"))
                    found, _ = check_logits(shown, Expected(*limits))
                    assert seen[tier] == (found is not None), (mistake.name, tier)


def test_the_verdict_is_the_exit_code(monkeypatch, capsys):
    monkeypatch.setattr(oracle, "Size", lambda: oracle.SMALL)
    row = {
        "mistake": "none",
        "outputs": 2,
        "changed": 0,
        "ours": 0.0,
        "seen": dict.fromkeys(oracle.DETECTORS, 0.0),
        "elements_beyond_assert_close": {"ieee": 0.0},
    }
    missed = row | {"mistake": "some"}
    monkeypatch.setattr(oracle, "measure", lambda _size: [row, missed | {"ours": 1.0}])
    assert oracle.main(as_json=True) == 0
    assert [r["mistake"] for r in json.loads(capsys.readouterr().out)["rows"]] == ["none", "some"]
    monkeypatch.setattr(oracle, "measure", lambda _size: [row, missed])
    assert oracle.main(as_json=False) == 1
    assert "assert_close" in capsys.readouterr().out
    monkeypatch.setattr(oracle, "measure", lambda _size: [row | {"ours": 0.5}, missed | {"ours": 1.0}])
    assert oracle.main(as_json=False) == 1
