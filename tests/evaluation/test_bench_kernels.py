"""The benchmark of kernels on a GPU, on small launches in lockstep: every result is checked before it is timed."""

from dataclasses import replace

import pytest

from indexfuzz import Lockstep
from indexfuzz.evaluation.bench.gpu_workloads import workloads
from indexfuzz.evaluation.bench.kernels import describe, main, measure
from indexfuzz.implementations import load
from indexfuzz.implementations.faults import plant

LIMITS = {"B": 1.0, "FLOP": 1.0}


def small(implementation):
    return list(workloads(implementation, small=True, device="cpu"))


def test_right_kernels_are_timed():
    with Lockstep():
        rows = [measure(workload, lambda _: 2.0, lambda _: 30.0, LIMITS) for workload in small(load("builtin"))]
    assert [row.wrong for row in rows] == [""] * 10
    assert all(row.milliseconds == 2.0 and row.rate > 0 and row.share == row.rate for row in rows)
    assert "GB/s" in describe(rows[0])
    assert describe(rows[0]).endswith("30 us a call")


@pytest.mark.parametrize(
    ("fault", "stage"),
    [
        ("scale-rounded-late", "q_quant"),
        ("layout-hardcoded-shuffle", "k_quant_cache"),
        ("layout-hardcoded-shuffle", "gather"),
        ("relu-missing", "prefill_logits"),
        ("relu-after-sum", "paged_logits"),
    ],
)
def test_a_wrong_result_is_named_and_not_timed(fault, stage):
    def never(_):
        raise AssertionError("timed a wrong kernel")

    faulty = plant((fault,))
    one = replace(faulty, stages={stage: faulty.stages[stage]})
    with Lockstep():
        timers = [never if plant_shows(workload, stage) else lambda _: 1.0 for workload in small(one)]
        rows = [measure(workload, timer, timer, LIMITS) for workload, timer in zip(small(one), timers, strict=True)]
    wrong = [row for row in rows if row.wrong]
    assert wrong
    assert "wrong: " in describe(wrong[0])


def plant_shows(workload, stage):
    """A hard-coded SHUFFLE is right where SHUFFLE is asked for."""
    return stage not in ("k_quant_cache", "gather") or workload.name.endswith("normal")


def test_without_a_gpu_it_says_so(capsys):
    assert main(as_json=False) == 2
    assert "needs a GPU" in capsys.readouterr().err
