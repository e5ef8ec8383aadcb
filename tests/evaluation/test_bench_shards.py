"""The benchmark of shards in a small form."""

import pytest

from indexfuzz.evaluation.bench import shards


@pytest.fixture
def small(monkeypatch):
    for name, value in {"SHARDS": 2, "CASES": 3, "SIZES": (1, 2), "FAULT_CASES": 2}.items():
        monkeypatch.setattr(shards, name, value)
    monkeypatch.setattr(shards, "FAULTS", ("rope-result-discarded",))


def test_shards_run_and_what_they_did_together_is_counted(small, tmp_path):
    done = [shards.run_shard(tmp_path, 4, number) for number in (1, 2)]
    result = shards.judge(done, tmp_path)
    assert (result.cases, result.different, result.merged_cases) == (6, 6, 6)
    assert 0 < result.growth[1] < result.growth[2] == len(done[0].reached[0].union(*done[0].reached, *done[1].reached))
    assert "2 shards of 3 cases each: 6 different cases, 0 run more than once." in result.as_text()


def test_the_first_of_several_shards_to_find_a_bug_counts(small, tmp_path):
    shards.run_shard(tmp_path, 4, 1)
    done = [shards.Shard((frozenset("a"),), {}), shards.Shard((frozenset("b"),), {"rope-result-discarded": 2})]
    result = shards.judge(done, tmp_path)
    assert result.found == {"rope-result-discarded": {1: None, 2: 2}}
    assert result.growth == {1: 1, 2: 2}
    assert "| rope-result-discarded | more than 2 | 2 |" in result.as_text()
