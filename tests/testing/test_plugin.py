"""The pytest plugin, in pytest sessions of their own."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import pytest

from indexfuzz.campaign.doubts import ALONE, UNSTABLE
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding, FindingError
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.setup import Setup
from indexfuzz.corpus import store
from indexfuzz.corpus.entry import Entry, Record, Sighting
from indexfuzz.corpus.store import Corpus
from indexfuzz.subjects.subject import Facts
from indexfuzz.subjects.under_test import UnderTest
from indexfuzz.testing.keeping import SHRINKING
from indexfuzz.testing.options import Options, parse_shard
from indexfuzz.testing.session import EnoughError, FuzzSession
from indexfuzz.triage.minimize import NotFailingError

SIGNATURE = "gather/code-mismatch/k_scale"
TWO_KEYS = Case().replace(batch={"prefill": ({"length": 2, "new": 0},)})
ONE_KEY = Case().replace(batch={"prefill": ({"length": 1, "new": 0},)})

FINDING = Finding(*SIGNATURE.split("/"), "token 1 is 2, must be 1")
FACTS = Facts("toy 1.0", "lockstep", "cpu", ("e4m3fn",), 1, ("gather",), (), "3.6.0", "2.13.0")

TARGET = """
from hypothesis import given
from indexfuzz import cases, check, target

@target
@given(case=cases())
def test_gather(case):
    check(case, only=frozenset({"gather"}))
"""


@pytest.fixture
def session(pytester, monkeypatch, run_pytest):
    """Run pytest on the toy kernels in a folder of its own; what it finds is made small by no clock."""
    pytester.makeconftest("from indexfuzz.testing import session\n\nsession.MINIMISE_SECONDS = float('inf')\n")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    toy = ("--fuzz-impl", "module:toy_gather", "--no-fuzz-isolate")
    options = ("--import-mode=importlib", "-p", "no:cacheprovider")
    return lambda *words, impl=toy: run_pytest(*options, *impl, *words)


def keep(
    case: Case, status: str = "open", implementation: str = "toy 1.0", link: str = "", folder: str = "corpus"
) -> Path:
    where = {"device": "lockstep", "triton": "3.6.0", "torch": "2.13.0", "date": "2026-01-31"}
    place = Sighting(implementation=implementation, **where)
    record = Record.of(Finding(*SIGNATURE.split("/"), "token 1 is 2, must be 1"))
    return Corpus(Path(folder)).save(Entry(case=case, finding=record, status=status, link=link, seen=(place,)))


def seeded(case: Case, seed: int) -> Case:
    return case.replace(values={"seed": seed})


def test_beyond_the_contract(session):
    guard = Finding("gather", "code-mismatch", "k_scale", "", beyond="block_size is 1 (toy/ops.py:7)")
    case = TWO_KEYS.replace(cache={"block_size": 16})
    Corpus(Path("corpus")).save(Entry(case=case, finding=Record.of(guard), status="guard"))
    result = session("corpus", "--fuzz-impl", "module:toy_contract", "--fuzz-beyond-contract")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*beyond the contract: block_size is 1 (toy/ops.py:7)*", "*--beyond-contract"])


class TestCorpusFiles:
    def test_outcomes(self, session, pytester):
        keep(seeded(TWO_KEYS, 1), link="https://example.org/issues/7")
        no_longer = keep(seeded(ONE_KEY, 2))
        guard = keep(seeded(TWO_KEYS, 3), "guard")
        keep(seeded(ONE_KEY, 4), "guard")
        known_here = keep(seeded(TWO_KEYS, 5), "open", "other 2.0")
        keep(seeded(ONE_KEY, 6), "open", "other 2.0")
        keep(seeded(ONE_KEY, 7), "unconfirmed")
        shown_again = keep(seeded(TWO_KEYS, 8), "unconfirmed")
        broken = Path("corpus/gather/0123456789abcdef.json")
        broken.write_text("{")
        Path("corpus/gather/package.json").write_text("{")
        Path("package.json").write_text("{")
        result = session("-rx")
        result.assert_outcomes(passed=2, failed=3, xfailed=3, skipped=1)
        text = result.stdout.str()
        for expected in (seeded(TWO_KEYS, 1).id, known_here.stem, shown_again.stem):
            assert f"XFAIL corpus/gather/{expected}.json" in text
        assert f"open: {SIGNATURE} (https://example.org/issues/7)" in text
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

    def test_a_symptom_is_expected_as_long_as_its_cause_is_not_mended(self, session, pytester):
        cause = Finding("gather", "race", "k_scale", "two programs")
        symptom = keep(seeded(TWO_KEYS, 1), "unconfirmed")
        entry = store.load(symptom)
        store.write(entry.model_copy(update={"cause": cause.signature}), symptom)
        mended = entry.model_copy(update={"case": seeded(TWO_KEYS, 2), "finding": Record.of(cause)})
        for status, outcome in (("open", {"xfailed": 1}), ("fixed", {"failed": 1})):
            path = Path("corpus") / mended.file
            store.write(mended.model_copy(update={"status": status}), path)
            result = session(str(symptom))
            result.assert_outcomes(**outcome)
        assert f"it was put down to {cause.signature}, which the case does not show" in result.stdout.str()

    def test_a_corpus_is_read_once_however_many_symptoms_it_has(self, session, monkeypatch):
        cause, plain, read = Finding("gather", "race", "k_scale", "two programs"), Corpus.known, Path("read")
        for folder in ("corpus", "others/corpus"):
            for seed in range(3):
                symptom = keep(seeded(TWO_KEYS, seed), "unconfirmed", folder=folder)
                entry = store.load(symptom)
                store.write(entry.model_copy(update={"cause": cause.signature}), symptom)
            Corpus(Path(folder)).save(
                entry.model_copy(update={"case": ONE_KEY, "finding": Record.of(cause), "status": "open"})
            )

        def note(corpus, name):
            with read.open("a") as file:
                file.write(f"{corpus.folder}\n")
            return plain(corpus, name)

        monkeypatch.setattr(Corpus, "known", note)
        session("corpus", "others/corpus").assert_outcomes(xfailed=6, failed=2)
        assert read.read_text().split() == [str(Path(folder).resolve()) for folder in ("corpus", "others/corpus")]

    def test_shards_share_the_files(self, session):
        for seed in range(8):
            keep(seeded(ONE_KEY, seed), "guard")
        parts = [set(session("--fuzz-shard", f"{i}/2", "-q", "--collect-only").outlines) for i in (1, 2)]
        collected = [{line for line in part if line.startswith("corpus/")} for part in parts]
        assert len(collected[0]) + len(collected[1]) == len(collected[0] | collected[1]) == 8


TWO_BUGS = """
from indexfuzz import Implementation
from toy_gather import Contract, gather

def k_quant_cache(k, cache, slot_mapping, *, scale_fmt, fp8, quant_group, layout):
    raise KeyError("no such page")

implementation = Implementation("two 1.0", {"k_quant_cache": k_quant_cache, "gather": gather}, Contract())
"""


class TestFuzzTargets:
    @pytest.mark.parametrize("ci", ["", "true"])
    def test_a_finding_is_a_few_lines_and_a_file(self, session, pytester, monkeypatch, ci):
        monkeypatch.setenv("CI", ci)  # where it is set, pytest's own summary prints whole messages
        pytester.makepyfile(test_toy=TARGET)
        result = session("--hypothesis-seed=1")
        result.assert_outcomes(failed=1)
        (path,) = Path("corpus").glob("gather/*.json")
        entry = store.load(path)
        text = result.stdout.str()
        assert str(entry.finding.signature) == SIGNATURE
        assert SIGNATURE in text
        assert entry.finding.detail in text
        assert f"on case {entry.case.id}, made of" in text
        assert "model    num_heads    1" in text
        assert f"again: indexfuzz replay corpus/gather/{path.name} --impl module:toy_gather" in text
        assert "Falsifying example" not in text
        told = text[text.index("= FAILURES =") : text.index("- IndexFuzz -")]
        assert len(told.splitlines()) < 30
        assert re.search(r"toy_gather\.py:\d+  k_scale\[1:2\] =", told)
        assert text.count("within the contract") == 1

    def test_a_crash_names_the_line_of_the_kernel(self, session, pytester, monkeypatch):
        monkeypatch.setenv("TOY", "crash")
        pytester.makepyfile(test_toy=TARGET)
        result = session()
        line = 1 + (Path(__file__).parents[1] / "toy_gather.py").read_text().splitlines().index(
            '        raise KeyError("toy")'
        )
        result.stdout.re_match_lines([rf".*at .*toy_gather\.py:{line}$"])

    def test_every_signature_is_a_test_of_its_own(self, session, pytester):
        pytester.makepyfile(test_toy=TARGET.replace('only=frozenset({"gather"})', "frozenset()"), two=TWO_BUGS)
        result = session("--fuzz-impl", "module:two", "--hypothesis-seed=1", "--junitxml=out.xml")
        result.assert_outcomes(failed=2)
        cases = ET.parse("out.xml").findall(".//testcase")
        values = {case.find("properties/property[@name='signature']").get("value") for case in cases}
        assert values == {SIGNATURE, "k_quant_cache/crash/KeyError"}
        assert len(cases) == len({case.get("name") for case in cases}) == 2

    def test_known_findings_do_not_raise(self, session, pytester):
        keep(TWO_KEYS)
        pytester.makepyfile(test_toy=TARGET)
        session("-k", "test_gather").assert_outcomes(passed=1, deselected=1)

    def test_one_that_passes_says_what_it_ran(self, session, pytester, monkeypatch):
        monkeypatch.setenv("TOY", "right")
        pytester.makepyfile(test_toy=TARGET)
        result = session()
        result.assert_outcomes(passed=1)
        result.stdout.re_match_lines([r"test_toy\.py::test_gather: \d+ cases in \d+\.\d s: gather \d+"])

    def test_one_that_tests_nothing_does_not_pass(self, session, pytester):
        pytester.makepyfile(test_toy=TARGET.replace('"gather"', '"rope"'))
        result = session()
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["no case of this target reached a stage of toy 1.0: *"])

    def test_a_finding_that_cannot_be_kept_is_told(self, session, pytester):
        Path("corpus").write_text("")
        pytester.makepyfile(test_toy=TARGET)
        result = session()
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            [SIGNATURE, "*cannot write to *corpus: *; findings go to * from now on", "*saved as *"]
        )

    def test_the_project_decides_what_is_not_asked_for(self, session, pytester, monkeypatch):
        pytester.makepyfile(test_toy=TARGET)
        Path("pyproject.toml").write_text('[tool.indexfuzz]\nimpl = "module:toy_gather"\ncorpus = "kept"\n')
        result = session("--no-fuzz-isolate", impl=())
        result.assert_outcomes(failed=1)
        assert list(Path("kept").glob("gather/*.json"))

    def test_workers_share_a_target(self, session, pytester, monkeypatch):
        monkeypatch.setenv("TOY", "right")
        pytester.makepyfile(test_toy=TARGET)
        result = session("-n", "2")
        result.assert_outcomes(passed=2)
        lines = [line for line in result.outlines if " cases in " in line]
        assert sorted(line.split(":")[2] for line in lines) == ["test_gather[1of2]", "test_gather[2of2]"]


@pytest.fixture
def toy(tmp_path):
    """A session whose subject is only asked for its facts."""

    def make(seconds: float | None = None) -> FuzzSession:
        session = FuzzSession(Options(seconds=seconds, corpus=tmp_path))
        session.__dict__["under_test"] = UnderTest(SimpleNamespace(facts=FACTS, unrepeated=[]), Setup())
        return session

    return make


@pytest.fixture
def minimise(monkeypatch):
    """Let every finding be made smaller in no time to a case of one key, and shown in a new process; what was asked."""
    asked = []

    def take(case, _subject, signature, *, seconds, on_progress):
        asked.append((signature, seconds))
        on_progress(ONE_KEY, FINDING)
        return ONE_KEY, FINDING

    monkeypatch.setattr("indexfuzz.campaign.jobs.minimise", take)
    monkeypatch.setattr("indexfuzz.testing.keeping.shows_in_fresh_process", lambda *_: True)
    return asked


class TestTime:
    """Time stands still but where a test moves it: nothing here waits."""

    @pytest.fixture
    def clock(self, monkeypatch):
        clock = SimpleNamespace(now=0.0)
        monkeypatch.setattr("indexfuzz.testing.session.time.monotonic", lambda: clock.now)
        return clock

    def test_it_ends_a_search(self, clock):
        run = FuzzSession(Options(seconds=3.0)).begin()
        clock.now = 3.0
        run.raise_if_over()
        clock.now = 3.1
        with pytest.raises(EnoughError):
            run.raise_if_over()

    @pytest.mark.parametrize(("seconds", "search", "left"), [(3.0, 1.5, 1.4), (100.0, 80.0, 19.9), (0.5, 0.25, 1.0)])
    def test_part_of_it_is_kept_for_making_findings_smaller(self, clock, toy, minimise, seconds, search, left):
        run = toy(seconds).begin()
        run.note(Outcome(TWO_KEYS, [FINDING], ["gather"]))
        clock.now = search
        run.raise_if_over()
        clock.now += 0.1
        with pytest.raises(EnoughError):
            run.raise_if_over()
        (found,) = run.conclude()
        assert minimise == [(FINDING.signature, pytest.approx(left * SHRINKING))]
        assert (found.case, found.path.stem, found.doubts) == (ONE_KEY, ONE_KEY.id, ())

    def test_outside_of_pytest_nothing_limits_and_findings_raise(self, clock, toy):
        run = toy(3.0).run
        clock.now = 1e9
        run.raise_if_over()
        with pytest.raises(FindingError):
            run.note(Outcome(TWO_KEYS, [FINDING], ["gather"]))


class TestKeeping:
    def test_a_finding_is_kept_when_it_is_seen_and_replaced_when_it_is_smaller(self, toy, minimise, tmp_path):
        run = toy().begin()
        run.note(Outcome(TWO_KEYS, [FINDING], ["gather"]))
        assert [path.stem for path in tmp_path.glob("*/*.json")] == [TWO_KEYS.id]
        assert statuses(tmp_path) == ["unconfirmed"]
        run.note(Outcome(seeded(TWO_KEYS, 2), [FINDING], ["gather"]))
        run.conclude()
        assert [path.stem for path in tmp_path.glob("*/*.json")] == [ONE_KEY.id]
        assert statuses(tmp_path) == ["open"]

    def test_what_lay_there_before_stays(self, toy, minimise, tmp_path):
        session = toy()
        Corpus(tmp_path).save(session.under_test.entry(TWO_KEYS, FINDING))
        run = session.begin()
        session._known[tmp_path.resolve()] = frozenset()
        run.note(Outcome(TWO_KEYS, [FINDING], ["gather"]))
        run.conclude()
        assert {path.stem for path in tmp_path.glob("*/*.json")} == {ONE_KEY.id, TWO_KEYS.id}

    @pytest.mark.parametrize("is_early", [True, False])
    def test_what_turns_out_to_follow_from_something_else_is_kept_beside_it(
        self, toy, minimise, monkeypatch, tmp_path, is_early
    ):
        run, stray = toy().begin(), replace(FINDING, kind="out-of-bounds")
        monkeypatch.setattr("indexfuzz.campaign.jobs.minimise", lambda case, *_, **__: (case, stray))
        shown = [Outcome(TWO_KEYS, [FINDING], ["gather"]), Outcome(seeded(TWO_KEYS, 2), [stray], ["gather"])]
        for outcome in shown if is_early else reversed(shown):
            run.note(outcome)
        kept = {path: store.load(path) for path in tmp_path.glob("*/*.json")}
        causes = {entry.case.id: entry.cause for entry in kept.values()}
        assert causes == {TWO_KEYS.id: stray.signature, seeded(TWO_KEYS, 2).id: None}
        (found,) = run.conclude()
        symptom = next(path for path, entry in kept.items() if entry.cause)
        assert (found.finding, found.symptoms) == (stray, {FINDING.signature: symptom})

    def test_what_does_not_happen_again_is_said_to_be_nondeterministic(self, toy, monkeypatch, tmp_path):
        def does_not_fail(*_, seconds, on_progress):
            raise NotFailingError

        monkeypatch.setattr("indexfuzz.campaign.jobs.minimise", does_not_fail)
        run = toy().begin()
        run.note(Outcome(TWO_KEYS, [FINDING], ["gather"]))
        (found,) = run.conclude()
        assert (str(found.finding.signature), found.doubts) == ("gather/nondeterministic/k_scale", (UNSTABLE,))
        assert statuses(tmp_path) == ["unconfirmed"]

    def test_what_a_new_process_does_not_show_is_unconfirmed(self, session, pytester, monkeypatch):
        monkeypatch.setenv("TOY", "later")
        pytester.makepyfile(test_toy=TARGET)
        result = session()
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines([f"*{ALONE}"])
        assert statuses(Path("corpus")) == ["unconfirmed"]


def statuses(corpus: Path) -> list[str]:
    return [json.loads(path.read_text())["status"] for path in corpus.glob("*/*.json")]


class TestUsage:
    """One line before collection, and nothing else."""

    @pytest.mark.parametrize(
        ("words", "complaint"),
        [
            (("--fuzz-impl", "nix"), "no implementation 'nix'"),
            (
                ("--fuzz-impl", "module:nix"),
                "module:nix cannot be imported: there is no nix.py here, nor on Python's path; `indexfuzz new-impl",
            ),
            (("--fuzz-device", "abacus"), "no device 'abacus'"),
            (("--fuzz-fault", "nix"), "no fault 'nix'"),
            (("--fuzz-seconds", "0"), "--fuzz-seconds: 0 s is no time to test in; give a number above 0"),
            (("--fuzz-seconds", "-1"), "--fuzz-seconds: -1 s is no time to test in"),
            (("--fuzz-seconds", "nan"), "--fuzz-seconds: nan s is no time to test in"),
            (("--fuzz-timeout", "0"), "--fuzz-timeout: 0 s is no time to test in"),
            (("--fuzz-shard", "9"), "--fuzz-shard: '9' must be I/N with 1 <= I <= N, such as 1/4"),
        ],
    )
    @pytest.mark.parametrize("workers", [(), ("-n", "2")])
    def test_a_wrong_option(self, session, pytester, words, complaint, workers):
        pytester.makepyfile(test_toy=TARGET)
        if workers and "impl" not in words[0]:
            pytest.skip("the same without workers")
        result = session(*words, *workers, impl=())
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        (line,) = [line for line in result.errlines if line]
        assert line.startswith(f"ERROR: {complaint}")
        assert result.outlines == []

    @pytest.mark.parametrize(
        ("setting", "complaint"),
        [
            ('impl = "module:nix"', "module:nix cannot be imported"),
            ("tiemout = 3", "pyproject.toml: tool.indexfuzz has no setting 'tiemout'; did you mean 'timeout'?"),
        ],
    )
    def test_a_wrong_setting(self, session, pytester, setting, complaint):
        pytester.makepyfile(test_toy=TARGET)
        Path("pyproject.toml").write_text(f"[tool.indexfuzz]\n{setting}\n")
        result = session("-q", impl=())
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert [line for line in result.errlines if line.startswith(f"ERROR: {complaint}")]

    def test_what_no_test_needs_is_not_opened(self, session, pytester):
        pytester.makepyfile(test_other="def test_other(): pass")
        Path("pyproject.toml").write_text('[tool.indexfuzz]\nimpl = "module:nix"\n')
        session(impl=()).assert_outcomes(passed=1)


def test_the_plugin_loads_nothing_heavy():
    script = (
        "import indexfuzz.testing.plugin, sys; print({'torch', 'triton', 'numpy', 'hypothesis'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


class TestShards:
    @pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "1/0", "-1/2", "1/2/3"])
    def test_malformed(self, text):
        with pytest.raises(ValueError, match="must be I/N"):
            parse_shard(text)

    def test_well_formed(self):
        assert parse_shard("2/10") == (2, 10)


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
