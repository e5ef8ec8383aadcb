"""What lies outside a contract runs only when asked for, and every finding says on which side of it the case lies."""

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from indexfuzz.campaign.summary import Summary
from indexfuzz.cli.common import console
from indexfuzz.cli.report import print_summary
from indexfuzz.core.case import Case
from indexfuzz.core.contract import Clauses, Lifted, beyond, covers
from indexfuzz.core.finding import Finding, FindingError, error_for
from indexfuzz.core.outcome import SEVERAL, Outcome
from indexfuzz.core.setup import Setup
from indexfuzz.core.signature import BEYOND, Signature
from indexfuzz.corpus.entry import CorpusError, Entry, Record, Sighting
from indexfuzz.corpus.store import Corpus, load
from indexfuzz.generation.narrowing import narrow
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.builtin import CONTRACT as BUILTIN
from indexfuzz.implementations.builtin import builtin
from indexfuzz.oracles import differential, schedule
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import UnderTest
from indexfuzz.triage.minimize import minimise
from indexfuzz.triage.replay import replay
from tests.toy_contract import CONTRACT, implementation

WITHIN = Case().replace(batch={"prefill": ({"length": 3, "new": 0},)})
OUTSIDE = WITHIN.replace(cache={"block_size": 16})
SIGNATURE = f"gather/code-mismatch/k_scale/{BEYOND}"
LIFTED = replace(implementation, contract=Lifted(CONTRACT))


class TestContracts:
    def test_the_first_broken_clause_is_named_with_its_place(self):
        assert CONTRACT.outside("gather", WITHIN) is None
        assert CONTRACT.outside("gather", OUTSIDE) == "block_size is 1 (toy/ops.py:7)"
        assert CONTRACT.outside("topk", OUTSIDE) is None

    def test_a_lifted_contract_leaves_nothing_out_and_remembers(self):
        lifted = Lifted(CONTRACT)
        assert (lifted.outside("gather", OUTSIDE), lifted.must_reject("gather", OUTSIDE)) == (None, False)
        assert beyond(lifted, "gather", OUTSIDE) == "block_size is 1 (toy/ops.py:7)"
        assert beyond(lifted, "gather", WITHIN) == beyond(CONTRACT, "gather", OUTSIDE) == ""
        assert [covers(c, "gather", OUTSIDE) for c in (CONTRACT, lifted)] == [False, False]
        assert [covers(c, "gather", WITHIN) for c in (CONTRACT, lifted)] == [True, True]

    def test_what_has_to_be_rejected_still_has_to_be(self, pytorch_device):
        cut = WITHIN.replace(cache={"block_size": 24, "layout": "shuffle"})
        accepting = replace(builtin(), stages={"gather": lambda **_: None}, contract=Lifted(BUILTIN))
        found = differential.run(cut, accepting, pytorch_device).findings
        assert [(str(finding.signature), finding.beyond) for finding in found] == [("gather/not-rejected", "")]

    def test_nothing_is_narrowed(self):
        assert narrow(OUTSIDE, implementation) != OUTSIDE
        assert narrow(OUTSIDE, LIFTED) is OUTSIDE


class TestFindings:
    def test_outside_nothing_runs(self, pytorch_device):
        outcome = differential.run(OUTSIDE, implementation, pytorch_device)
        assert (outcome.findings, outcome.stages) == ([], [])
        assert outcome.outside == {"gather": "block_size is 1 (toy/ops.py:7)"}

    def test_what_is_accepted_and_wrong_is_found_and_says_what_is_broken(self, pytorch_device):
        (finding,) = differential.run(OUTSIDE, LIFTED, pytorch_device).findings
        assert str(finding.signature) == SIGNATURE
        assert finding.promise == "beyond the contract: block_size is 1 (toy/ops.py:7)"
        data = finding.as_json()
        assert (data["contract"], data["beyond"]) == ("beyond", "block_size is 1 (toy/ops.py:7)")
        assert str(error_for(finding)).endswith("(beyond the contract: block_size is 1 (toy/ops.py:7))")

    @pytest.mark.parametrize("tested", [implementation, LIFTED])
    def test_within_it_says_so(self, pytorch_device, tested):
        def crash(**_):
            raise KeyError

        (finding,) = differential.run(WITHIN, replace(tested, stages={"gather": crash}), pytorch_device).findings
        assert (str(finding.signature), finding.promise) == ("gather/crash/KeyError", "within the contract")
        assert (finding.as_json()["contract"], "beyond" in finding.as_json()) == ("within", False)

    def test_a_clean_refusal_is_fine(self, pytorch_device, monkeypatch):
        for refusal in ("ValueError", "AssertionError"):
            monkeypatch.setenv("TOY", refusal)
            outcome = differential.run(OUTSIDE, LIFTED, pytorch_device)
            assert (outcome.findings, outcome.stages) == ([], ["gather"])

    def test_any_other_end_is_found(self, pytorch_device, monkeypatch):
        monkeypatch.setenv("TOY", "KeyError")
        (finding,) = differential.run(OUTSIDE, LIFTED, pytorch_device).findings
        assert str(finding.signature) == f"gather/crash/KeyError/{BEYOND}"

    def test_what_is_right_nevertheless_is_fine(self, pytorch_device, monkeypatch):
        monkeypatch.setenv("TOY", "right")
        assert differential.run(OUTSIDE, LIFTED, pytorch_device).findings == []

    @pytest.mark.parametrize("stage", ["k_quant_cache", "gather"])
    def test_to_accept_what_has_no_right_result_is_found(self, pytorch_device, stage):
        silent = Implementation("silent", {stage: lambda **_: None}, Lifted(Clauses(BUILTIN.clauses)))
        batch = {"prefill": ({"length": 3, "new": 3},)}
        cut = WITHIN.replace(cache={"block_size": 8, "layout": "shuffle"}, batch=batch)
        (finding,) = differential.run(cut, silent, pytorch_device).findings
        assert str(finding.signature) == f"{stage}/not-rejected/{BEYOND}"
        assert "SHUFFLE pages hold a multiple of 16 tokens (kernels/layout.py" in finding.promise

    def test_relations_and_repetitions_keep_to_the_contract(self, pytorch_device, monkeypatch):
        monkeypatch.setenv("TOY", "right")
        for kind in ("nondeterministic", "metamorphic/table-width"):
            signature = Signature("gather", kind, "k_fp8")
            assert schedule.ask(WITHIN, LIFTED, pytorch_device, signature).stages == ["gather"]
            assert schedule.ask(OUTSIDE, LIFTED, pytorch_device, signature).stages == []

    def test_an_open_finding_beyond_hides_none_within(self):
        beyond_it = Finding("gather", "crash", "KeyError", "", beyond="block_size is 1 (toy/ops.py:7)")
        within = replace(beyond_it, beyond="")
        assert beyond_it.signature != within.signature
        assert type(error_for(beyond_it)) is not type(error_for(within))
        assert isinstance(error_for(within), FindingError)


class TestCorpus:
    def test_the_clause_is_kept(self, pytorch_device, tmp_path):
        (finding,) = differential.run(OUTSIDE, LIFTED, pytorch_device).findings
        path = Corpus(tmp_path).save(Entry(case=OUTSIDE, finding=Record.of(finding)))
        kept = load(path)
        assert kept.finding is not None
        assert (kept.finding.beyond, str(kept.finding.signature)) == ("block_size is 1 (toy/ops.py:7)", SIGNATURE)
        assert replay(kept, InProcess(LIFTED, pytorch_device)).status == "STILL FAILS"
        assert "outside the contract" in replay(kept, InProcess(implementation, pytorch_device)).message

    def test_files_without_the_field_stay_valid_and_as_they_are(self, tmp_path):
        path = Corpus(tmp_path).save(Entry(case=WITHIN, finding=Record.of(Finding("gather", "crash", "KeyError", "x"))))
        assert "beyond" not in path.read_text()
        assert load(path).dumps() == path.read_text()

    def test_a_file_that_contradicts_itself_is_refused(self, tmp_path):
        path = Corpus(tmp_path).save(Entry(case=WITHIN, finding=Record.of(Finding("gather", "crash", "KeyError", "x"))))
        path.write_text(path.read_text().replace("crash/KeyError", f"crash/KeyError/{BEYOND}"))
        with pytest.raises(CorpusError, match="beyond must name the broken clause"):
            load(path)


TOY = ("--impl", "module:toy_contract", "--no-isolate")


class TestCommandLine:
    def test_a_campaign_looks_beyond_only_when_asked(self, indexfuzz):
        campaign = ("run", *TOY, "--cases", "12", "--seed", "1", "--corpus", "known")
        assert indexfuzz(*campaign)[0] == 0
        code, out, _ = indexfuzz(*campaign, "--beyond-contract")
        assert code == 1
        assert f"\n{SIGNATURE}\n" in out
        assert "beyond the contract: block_size is 1 (toy/ops.py:7)" in out
        (file,) = Path("known/gather").glob("*.json")
        again = ("replay", str(file), *TOY)
        assert f"again: indexfuzz {' '.join(again)} --beyond-contract" in out
        assert indexfuzz(*again, "--beyond-contract")[0] == 1
        code, out, _ = indexfuzz(*again)
        assert (code, out.startswith("ERROR")) == (2, True)
        small = indexfuzz("minimize", str(file), *TOY, "--beyond-contract", "--out", "small.json")[1]
        assert "beyond the contract: block_size is 1" in small
        assert "beyond the contract: block_size is 1" in indexfuzz("show", "small.json")[1]

    def test_json_says_which_of_the_two_it_is(self, indexfuzz):
        campaign = ("run", *TOY, "--cases", "12", "--seed", "1", "--corpus", "known")
        out = indexfuzz(*campaign, "--beyond-contract", "--json")[1]
        (finding,) = json.loads(out)["findings"]
        assert (finding["signature"], finding["contract"]) == (SIGNATURE, "beyond")

    def test_the_contract_of_an_implementation(self, indexfuzz):
        code, out, _ = indexfuzz("impls", "module:toy_contract")
        assert code == 0
        assert "narrow 1.0\n  a toy\n  stages: gather\n" in out
        assert "gather promises to handle cases in which\n  block_size is 1  (toy/ops.py:7)\n" in out
        forms = "the scales of keys are fp32; tables, lengths, windows and owners are int32"
        assert f"\n  is asked only where {forms}\n" in out
        assert out.endswith("than the real thing\n  toy.a\n  toy.b\n")
        data = json.loads(indexfuzz("impls", "module:toy_contract", "--json")[1])
        assert data["contract"][2] == {"stages": ["gather"], "promise": "one scale", "place": "toy/ops.py:9"}
        assert data["forms"] == {"gather": forms.split("; ")}
        assert data["replaced"] == ["toy.a", "toy.b"]

    def test_a_contract_that_is_no_table(self, indexfuzz):
        assert "its contract is no list of clauses" in indexfuzz("impls", "module:toy_gather")[1]

    def test_what_is_replaced_is_a_note_of_a_campaign(self, indexfuzz):
        out = indexfuzz("run", *TOY, "--cases", "1", "--seed", "1")[1]
        assert "2 of its imports got something else; `indexfuzz impls NAME:PATH` lists them" in out


def test_the_command_says_under_which_conditions():
    here = Path("x.json")
    assert Setup("module:m", beyond_contract=True).command("replay", here).endswith("module:m --beyond-contract")
    assert "beyond" not in Setup("module:m").command("replay", here)


def test_known_signatures_are_of_one_side(tmp_path):
    outside = Record.of(Finding("gather", "crash", "KeyError", "x", beyond="block_size is 1 (toy/ops.py:7)"))
    where = {"device": "lockstep", "triton": "3.6.0", "torch": "2.13.0", "date": "2026-01-31"}
    seen = (Sighting(implementation="narrow 1.0", **where),)
    Corpus(tmp_path).save(Entry(case=OUTSIDE, finding=outside, seen=seen))
    assert Corpus(tmp_path).known("narrow 1.0") == {Signature("gather", "crash", "KeyError", beyond=True)}


class TestClauses:
    @pytest.mark.parametrize(
        ("toy", "ending"),
        [
            ("wrong", "wrong silently"),
            ("right", "right nevertheless"),
            ("ValueError", "refused cleanly"),
            ("KeyError", "crashes"),
        ],
    )
    def test_an_outcome_says_how_a_clause_ended(self, toy, ending, pytorch_device, monkeypatch):
        monkeypatch.setenv("TOY", toy)
        outcome = differential.run(OUTSIDE, LIFTED, pytorch_device)
        assert list(outcome.endings()) == [("block_size is 1 (toy/ops.py:7)", "gather", ending)]
        assert list(differential.run(WITHIN, LIFTED, pytorch_device).endings()) == []

    def test_a_death_is_a_crash_and_several_clauses_are_nobody_s(self):
        death = Finding("gather", "hang", "timeout", "", beyond="a (x); b (y)")
        assert list(Outcome(WITHIN, [death]).endings()) == [(SEVERAL, "gather", "crashes")]

    def test_a_report_goes_clause_by_clause(self, indexfuzz):
        campaign = ("run", *TOY, "--cases", "40", "--seed", "1", "--corpus", "known", "--beyond-contract")
        out = indexfuzz(*campaign)[1]
        assert (
            "\nbeyond the contract, where a case breaks\n  block_size is 1 (toy/ops.py:7)\n    gather: wrong silently"
            in out
        )
        assert "several clauses at once" not in out
        endings = json.loads(indexfuzz(*campaign, "--json")[1])["beyond"]["block_size is 1 (toy/ops.py:7)"]
        assert set(endings) == {"gather"}

    def test_a_report_puts_the_worst_first_and_names_what_is_untried(self, pytorch_device, capsys):
        table = Clauses(tuple(replace(CONTRACT.clauses[0], sentence=name, place="x") for name in "abcd"))
        lifted = replace(implementation, contract=Lifted(table))
        summary = Summary(cases=9, seconds=1.0, stages=Counter(gather=9))
        for clause, ending in (("a (x)", "refused cleanly"), (SEVERAL, "crashes"), ("b (x)", "wrong silently")):
            summary.beyond[clause] = {"gather": Counter({ending: 3, "right nevertheless": 1})}
        target = UnderTest(InProcess(lifted, pytorch_device), Setup())
        print_summary(summary, {}, target, console())
        told = capsys.readouterr().out.splitlines()
        assert told[2:-1] == [
            "beyond the contract, where a case breaks",
            "  b (x)",
            "    gather: wrong silently 3, right nevertheless 1",
            "  a (x)",
            "    gather: right nevertheless 1, refused cleanly 3",
            f"  {SEVERAL}",
            "    gather: crashes 3, right nevertheless 1",
            "no case broke alone",
            "  c (x)",
            "    gather",
            "  d (x)",
            "    gather",
        ]
        within = UnderTest(InProcess(implementation, pytorch_device), Setup())
        print_summary(replace(summary, beyond={}), {}, within, console())
        assert "broke" not in capsys.readouterr().out

    def test_a_case_is_not_made_smaller_by_breaking_more(self, pytorch_device):
        case = OUTSIDE.replace(cache={"layout": "normal", "block_size": 64})
        small, finding = minimise(case, InProcess(LIFTED, pytorch_device), Signature.parse(SIGNATURE), seconds=math.inf)
        assert finding.beyond == "block_size is 1 (toy/ops.py:7)"
        assert small.cache.block_size < 64
