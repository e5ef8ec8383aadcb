"""The pytest plugin, in pytest sessions of their own."""

import os
import sys
from pathlib import Path

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.corpus import store
from indexfuzz.corpus.entry import Entry, Record, Sighting
from indexfuzz.testing.options import parse_shard

SIGNATURE = "gather/code-mismatch/k_scale"
TWO_KEYS = Case().replace(batch={"prefill": ({"length": 2, "new": 0},)})
ONE_KEY = Case().replace(batch={"prefill": ({"length": 1, "new": 0},)})

TARGET = """
from hypothesis import given
from indexfuzz import cases
from indexfuzz import check, target

@target
@given(case=cases())
def test_gather(case):
    check(case, only=frozenset({"gather"}))
"""


@pytest.fixture
def session(pytester, monkeypatch):
    """Run pytest on the toy kernels in a folder of its own."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    toy = ("--fuzz-impl", "module:toy_gather", "--no-fuzz-isolate")
    options = ("--import-mode=importlib", "-p", "no:cacheprovider", *toy)
    return lambda *words: pytester.run(sys.executable, "-m", "pytest", *options, *words)


def keep(case: Case, status: str = "open", implementation: str = "toy 1.0") -> Path:
    where = {"device": "lockstep", "triton": "3.6.0", "torch": "2.13.0", "date": "2026-01-31"}
    place = Sighting(implementation=implementation, **where)
    record = Record.of(Finding(*SIGNATURE.split("/"), "token 1 is 2, must be 1"))
    return store.save(Entry(case=case, finding=record, status=status, seen=(place,)), Path("corpus"))


def seeded(case: Case, seed: int) -> Case:
    return case.replace(values={"seed": seed})


def test_beyond_the_contract(session):
    guard = Finding("gather", "code-mismatch", "k_scale", "", beyond="block_size is 1 (toy/ops.py:7)")
    case = TWO_KEYS.replace(cache={"block_size": 16})
    store.save(Entry(case=case, finding=Record.of(guard), status="guard"), Path("corpus"))
    result = session("corpus", "--fuzz-impl", "module:toy_contract", "--fuzz-beyond-contract")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*beyond the contract: block_size is 1 (toy/ops.py:7)*", "*--beyond-contract"])


class TestCorpusFiles:
    def test_outcomes(self, session, pytester):
        keep(seeded(TWO_KEYS, 1))
        no_longer = keep(seeded(ONE_KEY, 2))
        guard = keep(seeded(TWO_KEYS, 3), "guard")
        keep(seeded(ONE_KEY, 4), "guard")
        known_here = keep(seeded(TWO_KEYS, 5), "open", "other 2.0")
        keep(seeded(ONE_KEY, 6), "open", "other 2.0")
        broken = Path("corpus/gather/0123456789abcdef.json")
        broken.write_text("{")
        Path("corpus/gather/package.json").write_text("{")
        Path("package.json").write_text("{")
        result = session("-rx")
        result.assert_outcomes(passed=2, failed=3, xfailed=2)
        text = result.stdout.str()
        for expected in (seeded(TWO_KEYS, 1).id, known_here.stem):
            assert f"XFAIL corpus/gather/{expected}.json" in text
        assert f"FIXED on toy 1.0: it no longer shows {SIGNATURE}" in text
        assert f"again: indexfuzz replay corpus/gather/{guard.name} --impl module:toy_gather" in text
        assert f"indexfuzz replay corpus/gather/{no_longer.name}" in text
        assert f"{broken}: not JSON: line 1" in text
        assert "Traceback" not in text
        assert "def runtest" not in text

    def test_what_no_open_entry_knows_fails(self, session, pytester):
        new = [keep(seeded(TWO_KEYS, 2), "open", "other 2.0"), keep(seeded(TWO_KEYS, 3), "guard", "other 2.0")]
        text = session(*(str(path) for path in new)).stdout.str()
        for path in new:
            assert f"again: indexfuzz replay corpus/gather/{path.name} --impl module:toy_gather" in text

    def test_shards_share_the_files(self, session):
        for seed in range(8):
            keep(seeded(ONE_KEY, seed), "guard")
        parts = [set(session("--fuzz-shard", f"{i}/2", "-q", "--collect-only").outlines) for i in (1, 2)]
        collected = [{line for line in part if line.startswith("corpus/")} for part in parts]
        assert len(collected[0]) + len(collected[1]) == len(collected[0] | collected[1]) == 8

    def test_what_cannot_be_tested_fails_in_one_line(self, session):
        keep(ONE_KEY, "guard")
        result = session("--fuzz-impl", "nix", "-q")
        result.assert_outcomes(failed=1)
        assert "no implementation 'nix'" in result.stdout.str()
        assert "Traceback" not in result.stdout.str()


class TestFuzzTargets:
    def test_a_finding_is_a_few_lines_and_a_file(self, session, pytester):
        pytester.makepyfile(test_toy=TARGET)
        result = session("--hypothesis-seed=1")
        result.assert_outcomes(failed=1)
        (path,) = Path("findings").glob("gather/*.json")
        entry = store.load(path)
        text = result.stdout.str()
        assert str(entry.finding.signature) == SIGNATURE
        assert SIGNATURE in text
        assert entry.finding.detail in text
        assert f"again: indexfuzz replay findings/gather/{path.name} --impl module:toy_gather" in text
        assert "Falsifying example" not in text
        assert len(text.splitlines()) < 30

    def test_known_findings_do_not_raise(self, session, pytester):
        keep(TWO_KEYS)
        pytester.makepyfile(test_toy=TARGET)
        session("--hypothesis-seed=1", "-k", "test_gather").assert_outcomes(passed=1, deselected=1)


class TestShards:
    @pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "1/0", "-1/2", "1/2/3"])
    def test_malformed(self, text):
        with pytest.raises(ValueError, match="must be I/N"):
            parse_shard(text)

    def test_well_formed(self):
        assert parse_shard("2/10") == (2, 10)

    def test_error_is_a_usage_error(self, session):
        result = session("--fuzz-shard", "9")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert "--fuzz-shard: '9' must be I/N" in result.stderr.str()


def test_profiles_are_independent_of_ci(pytester):
    script = (
        "from indexfuzz.testing import profiles; from hypothesis import settings; profiles.register()\n"
        "for name in ('dev', 'ci', 'nightly'):\n"
        "    p = settings.get_profile(name); print(name, p.derandomize, p.database is None, p.deadline)\n"
    )
    for ci in ("", "true"):
        os.environ["CI"] = ci
        try:
            result = pytester.run(sys.executable, "-c", script)
        finally:
            del os.environ["CI"]
        assert result.outlines == ["dev False False None", "ci True True None", "nightly False False None"]
