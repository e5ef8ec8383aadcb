"""The benchmark of isolation in a small form: its counts, and that it notices what is wrong."""

import json
import math
import sys
from dataclasses import asdict

import pytest

from indexfuzz.evaluation.bench import isolation
from indexfuzz.evaluation.bench.isolation import Cost, Injections

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def test_a_few_injections_lose_nothing(monkeypatch):
    monkeypatch.setattr(isolation, "SIGNATURES", {2: "gather/crash/SIGSEGV", 6: "gather/crash/exit-3"})
    result = isolation.measure_injections(6, seconds=math.inf)
    assert result.total >= 6
    assert (result.lost, result.wrongly_blamed, result.not_blamed, result.orphans) == ([], [], [], 0)
    assert "cases lost: 0, blamed wrongly: 0, not blamed: 0" in isolation.as_text(Cost(1, 1.0, 1.0, True), result)
    assert json.loads(json.dumps(asdict(result)))["misdeeds"]


@pytest.mark.parametrize("bad", [{"lost": ["x"]}, {"wrongly_blamed": ["x"]}, {"not_blamed": ["x"]}, {"orphans": 1}])
def test_what_is_wrong_fails(monkeypatch, capsys, bad):
    monkeypatch.setattr(isolation, "measure_cost", lambda: Cost(1, 1.0, 1.0, same_outcomes=True))
    monkeypatch.setattr(isolation, "measure_injections", lambda: Injections(**bad))
    assert isolation.main(as_json=False) == 1
    monkeypatch.setattr(isolation, "measure_injections", Injections)
    assert isolation.main(as_json=True) == 0
    capsys.readouterr()
