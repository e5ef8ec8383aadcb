import errno
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from indexfuzz.campaign import jobs
from indexfuzz.campaign.chunk import CHUNK
from indexfuzz.campaign.log import Line
from indexfuzz.cli import _defaults
from indexfuzz.cli.common import InputError
from indexfuzz.cli.coverage import covering
from indexfuzz.cli.options import DeviceName
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.project import Project
from indexfuzz.core.setup import Setup
from indexfuzz.corpus import store
from indexfuzz.corpus.entry import Entry, Record, Sighting
from indexfuzz.corpus.store import Corpus
from indexfuzz.devices import DEVICES
from indexfuzz.oracles import schedule
from indexfuzz.triage.prove import Proof

TOY = ("--impl", "module:toy_gather", "--no-isolate")
COMMANDS = (
    "run",
    "replay",
    "minimize",
    "repro",
    "show",
    "severity",
    "merge",
    "prune",
    "impls",
    "new-impl",
    "new-ci",
    "compile",
    "faults",
    "presets",
    "bench",
    "mutate",
)
SIGNATURE = "gather/code-mismatch/k_scale"
TWO_KEYS = Case().replace(batch={"prefill": ({"length": 2, "new": 0},)})
ONE_KEY = Case().replace(batch={"prefill": ({"length": 1, "new": 0},)})
NO_KEYS = Case().replace(batch={"pad_tokens": 1})


@pytest.fixture
def indexfuzz(indexfuzz):
    """Run the command line, campaigns in one process; -> (exit code, standard output, standard error)."""

    def run(*words: object) -> tuple[int, str, str]:
        alone = ("--workers", "1") if words[:1] == ("run",) and "--workers" not in words else ()
        return indexfuzz(*words, *alone)

    return run


def kept(folder: Path, case: Case = TWO_KEYS, signature: str = SIGNATURE, **more: object) -> Path:
    """A corpus file of a finding that the toy shows."""
    stage, kind, output = signature.split("/")
    place = Sighting(implementation="toy 1.0", device="lockstep", triton="3.6.0", torch="2.13.0", date="2026-01-31")
    record = Record.of(Finding(stage, kind, output, "token 1 is 2, must be 1", index=(1,), got="2", want="1"))
    return Corpus(folder).save(Entry(case=case, finding=record, **({"seen": (place,)} | more)))


class TestHelp:
    def test_every_device_is_named(self):
        (option,) = DeviceName.__metadata__
        words = re.findall(r"(\w+)(?:\[([^]]*)\])?", option.metavar)
        names = {base + argument for base, arguments in words for argument in ("", *filter(None, arguments.split("|")))}
        assert names == set(DEVICES)

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_explains_itself_with_an_example(self, indexfuzz, command):
        code, out, _ = indexfuzz(command, "--help")
        assert code == 0
        assert "Example" in out
        assert f"indexfuzz {command}" in out

    def test_help_loads_nothing_heavy(self):
        script = "import indexfuzz.cli, sys; print({'torch', 'triton', 'numpy', 'hypothesis'} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout == "set()\n"

    def test_version(self, indexfuzz):
        assert indexfuzz("--version")[:2] == (0, "indexfuzz 0.1.0\n")


class TestBadInput:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("run", "--sedd", "1"), "No such option"),
            (("walk",), "No such command"),
            (("run", "--seconds", "1", "--cases", "1"), "exclude each other"),
            (("run", "--stage", "gathr"), "--stage: no 'gathr'; did you mean 'gather'?"),
            (("run", *TOY, "--stage", "topk"), "--stage topk: toy 1.0 has no such stage; it has gather"),
            (("run", "--values", "odd"), "--values: no 'odd'"),
            (("run", "--preset", "gpt"), "--preset: no 'gpt'; choose from deepseek-v3.2"),
            (("run", "--coverage", "--workers", "2"), "--coverage sees the masks of one process"),
            (("run", "--log", "/dev/null/log", "--cases", "1"), "--log /dev/null/log: Not a directory"),
            (("run", "--shard", "3/2"), "--shard: '3/2' must be I/N"),
            (("run", "--impl", "nix"), "no implementation 'nix'"),
            (("run", "--impl", "module:no_such_module"), "cannot be imported"),
            (("run", "--device", "abacus"), "no device 'abacus'"),
            (("run", "--fault", "nix"), "no fault 'nix'"),
            (("run", *TOY, "--fault", "rope-result-discarded"), "built-in kernels only"),
            (("replay", "nix"), "nix: no such file or folder, and no case in"),
            (("replay", "."), "no corpus files"),
            (("replay",), "no cases in corpus: there is nothing to run again"),
            (("show", "nix.json"), "nix.json: no such file"),
            (("show",), "Missing argument"),
            (("bench", "nix"), "no benchmark 'nix'; choose one of"),
            (("bench", "oracle", "--impl", "vllm"), "bench oracle measures the built-in kernels only"),
        ],
    )
    def test_is_2_and_one_sentence(self, indexfuzz, words, message):
        code, out, err = indexfuzz(*words)
        assert (code, out) == (2, "")
        assert message in err
        assert "Traceback" not in err

    def test_a_broken_file_is_named(self, indexfuzz, tmp_path):
        (tmp_path / "bug.json").write_text("{")
        code, _, err = indexfuzz("show", "bug.json")
        assert code == 2
        assert err.startswith("error: bug.json: not JSON: line 1, column 2: Expecting property name")

    def test_a_full_disk_is_no_internal_error(self, indexfuzz, monkeypatch):
        def full():
            raise OSError(errno.ENOSPC, "No space left on device", "corpus/a.json")

        monkeypatch.setattr("indexfuzz.implementations.available", full)
        assert indexfuzz("impls") == (2, "", "error: corpus/a.json: No space left on device\n")

    def test_an_unexpected_error_is_3_with_the_traceback_in_a_file(self, indexfuzz, monkeypatch, tmp_path):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setattr("indexfuzz.implementations.available", lambda: 1 / 0)
        code, out, err = indexfuzz("impls")
        assert (code, out) == (3, "")
        assert err.startswith("internal error: ZeroDivisionError: division by zero (traceback in ")
        assert "Traceback" in Path(err.split("traceback in ")[1].strip(")\n")).read_text()


class TestLists:
    @pytest.mark.parametrize(
        ("command", "field", "expected"),
        [
            ("impls", "name", "builtin"),
            ("faults", "id", "rope-result-discarded"),
            ("presets", "name", "glm-5"),
            ("bench", "name", "lockstep"),
        ],
    )
    def test_as_text_and_as_json(self, indexfuzz, command, field, expected):
        code, out, _ = indexfuzz(command)
        assert code == 0
        assert expected in out
        assert expected in [row[field] for row in json.loads(indexfuzz(command, "--json")[1])]


@pytest.fixture
def hasty(monkeypatch):
    """Campaigns that do not shrink: what is tested is that a finding goes the whole way."""
    minimise = jobs.minimise
    monkeypatch.setattr("indexfuzz.subjects.fresh.shows_in_fresh_process", lambda *_: True)
    monkeypatch.setattr(jobs, "minimise", lambda *args, **_: minimise(*args, seconds=0.0))


NEVER = """
from indexfuzz import Clause, Clauses, Implementation
from indexfuzz.implementations.builtin import builtin

stages = {name: builtin().stages[name] for name in ("gather", "topk")}
clauses = (*builtin().contract.clauses, Clause(("gather",), lambda case: False, "there is no case", "ops.py:1"))
implementation = Implementation("never 1.0", stages, Clauses(clauses))
"""
"""A module with a stage whose contract leaves nothing to try."""


@pytest.mark.parametrize(("named", "expected"), [((), 0), (("topk",), 0), (("gather", "topk"), 2)])
def test_a_stage_that_was_not_tried_is_said_so_and_green_only_where_nobody_named_it(indexfuzz, named, expected):
    Path("never.py").write_text(NEVER)
    words = (
        "run",
        "--impl",
        "module:never",
        "--cases",
        6,
        "--seed",
        1,
        *(w for name in named for w in ("--stage", name)),
    )
    code, out, _ = indexfuzz(*words)
    assert code == expected
    assert ("not tried, so nothing can be said of it: gather" in out) == (named != ("topk",))
    assert ("nothing new" in out) == (expected == 0)
    code, out, _ = indexfuzz(*words, "--json")
    assert (code, json.loads(out)["not_tried"]) == (expected, [] if named == ("topk",) else ["gather"])


FEW = CHUNK
"""Cases among which the toy shows its bug more than once; later ones are searched for, which takes seconds."""


@pytest.mark.usefixtures("hasty")
class TestRun:
    def test_nothing_new_is_0(self, indexfuzz, monkeypatch):
        monkeypatch.setenv("TOY", "right")
        code, out, _ = indexfuzz("run", *TOY, "--cases", 20, "--seed", 1, "--corpus", "kept")
        assert code == 0
        assert "fuzzing toy 1.0 on lockstep, seed 1" in out
        assert "nothing new" in out
        assert not Path("kept").exists()

    def test_a_workflow_of_github_shows_what_is_found(self, indexfuzz, monkeypatch):
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
        _, out, err = indexfuzz("run", *TOY, "--cases", FEW, "--seed", 1, "--corpus", "kept")
        assert err.startswith(f"::error title={SIGNATURE}::")
        assert "::error" not in out
        text = Path("summary.md").read_text()
        assert text.startswith(f"### IndexFuzz: toy 1.0 on lockstep, {FEW} cases, seed 1\n")
        assert re.search(rf"`{SIGNATURE}` at `\S*toy_gather\.py:\d+`: ", text)

    def test_a_finding_is_1_named_and_saved(self, indexfuzz):
        code, out, _ = indexfuzz("run", *TOY, "--cases", FEW, "--seed", 1, "--corpus", "kept")
        assert code == 1
        (path,) = Path("kept").glob("gather/*.json")
        entry = store.load(path)
        assert str(entry.finding.signature) == SIGNATURE
        assert entry.seen[0].implementation == "toy 1.0"
        assert all(text in out for text in (SIGNATURE, entry.finding.detail, str(path), "token 1"))
        assert re.search(r"^  seen \d+ times? more$", out, re.MULTILINE)
        assert "known findings" not in out
        assert "a new bug that shows" not in out
        assert f"again: indexfuzz replay {path} --impl module:toy_gather" in out

    def test_known_findings_do_not_count(self, indexfuzz):
        kept(Path("corpus"))
        code, out, _ = indexfuzz("run", *TOY, "--cases", FEW, "--seed", 1, "--corpus", "corpus")
        assert code == 0
        assert f"known findings: {SIGNATURE}" in out
        assert "a new bug that shows as one of these counts as it" in out

    def test_out_takes_new_findings(self, indexfuzz):
        assert indexfuzz("run", *TOY, "--cases", FEW, "--seed", 1, "--corpus", "corpus", "--out", "new")[0] == 1
        assert list(Path("new").glob("gather/*.json"))
        assert not Path("corpus").exists()

    def test_json_is_all_of_standard_output(self, indexfuzz):
        code, out, _ = indexfuzz("run", *TOY, "--cases", FEW, "--seed", 1, "--corpus", "kept", "--json")
        data = json.loads(out)
        assert code == 1
        assert data["cases"] <= FEW
        assert data["findings"][0]["signature"] == SIGNATURE
        assert Path(data["findings"][0]["file"]).stem == data["findings"][0]["case"]

    def test_a_log_tells_the_same_as_the_summary(self, indexfuzz):
        code, out, _ = indexfuzz(
            "run", *TOY, "--cases", FEW, "--seed", 1, "--corpus", "k", "--log", "a/b/log", "--json"
        )
        lines = [Line.validate_json(text) for text in Path("a/b/log").read_text().splitlines()]
        assert code == 1
        assert (lines[0].event, lines[0].seed, lines[0].workers) == ("start", 1, 1)
        assert lines[-1].cases == json.loads(out)["cases"] == sum(line.event == "case" for line in lines)
        assert lines[-1].findings == (SIGNATURE,)

    def test_several_processes_find_the_same(self, indexfuzz):
        words = ("run", *TOY, "--cases", 3 * FEW, "--seed", 1, "--json")
        first, second = (json.loads(indexfuzz(*words, "--corpus", n, "--workers", n)[1]) for n in ("1", "2"))
        for same in ("cases", "stages", "known"):
            assert first[same] == second[same]
        assert [f["signature"] for f in first["findings"]] == [f["signature"] for f in second["findings"]]
        assert not Path(".indexfuzz").exists()

    def test_a_seed_repeats_a_run_and_a_shard_changes_it(self, indexfuzz, monkeypatch):
        monkeypatch.setenv("TOY", "right")
        words = ("run", *TOY, "--cases", 2 * FEW, "--seed", 1, "--corpus", "kept", "--json")
        first, again, shard = (json.loads(indexfuzz(*words, *more)[1]) for more in ((), (), ("--shard", "2/3")))
        assert first["stages"] == again["stages"]
        assert first["stages"] != shard["stages"]

    def test_a_corpus_that_cannot_be_written_is_2(self, indexfuzz):
        Path("file").write_text("")
        code, _, err = indexfuzz("run", *TOY, "--cases", FEW, "--seed", 1, "--corpus", "file")
        assert code == 2
        assert "file is a file" in err

    def test_interrupt_ends_with_a_summary(self, indexfuzz, monkeypatch):
        monkeypatch.setenv("TOY", "right")
        runs, run_case = [], schedule.run

        def interrupted(*arguments: object) -> object:
            runs.append(1)
            if len(runs) == 5:
                raise KeyboardInterrupt
            return run_case(*arguments)

        monkeypatch.setattr(schedule, "run", interrupted)
        code, out, _ = indexfuzz("run", *TOY, "--cases", 100, "--corpus", "kept")
        assert code == 130
        assert "interrupted by SIGINT after 4 cases" in out


@pytest.mark.usefixtures("hasty")
class TestProject:
    """Where findings land, and what a project's settings decide."""

    def write(self, folder: Path, *lines: str) -> None:
        (folder / "pyproject.toml").write_text("\n".join(("[tool.indexfuzz]", *lines)))

    def test_findings_land_in_the_current_folder(self, indexfuzz):
        code, out, _ = indexfuzz("run", *TOY, "--cases", FEW, "--seed", 1)
        (path,) = Path("corpus").glob("gather/*.json")
        assert code == 1
        assert f"saved as {path}" in out

    def test_its_table_names_the_kernels_and_the_corpus_also_from_below(self, indexfuzz, monkeypatch, tmp_path):
        self.write(tmp_path, 'impl = "module:toy_gather"', 'corpus = "kept"', 'values = ["exact"]', "timeout = 9")
        (tmp_path / "src").mkdir()
        monkeypatch.chdir(tmp_path / "src")
        code, out, _ = indexfuzz("run", "--no-isolate", "--cases", FEW, "--seed", 1)
        (path,) = tmp_path.glob("kept/gather/*.json")
        assert code == 1
        assert f"saved as ../kept/gather/{path.name}" in out
        assert _defaults(Project.here())["run"]["values"] == ["exact"]
        assert indexfuzz("show", path.stem)[0] == 0
        assert indexfuzz("replay", "--no-isolate")[1].startswith(f"STILL FAILS ../kept/gather/{path.name}")

    def test_an_option_wins(self, indexfuzz, tmp_path):
        self.write(tmp_path, 'impl = "module:no_such_module"', 'device = "abacus"', 'corpus = "kept"')
        words = ("--device", "lockstep", "--corpus", "other")
        assert indexfuzz("run", *TOY, *words, "--cases", FEW, "--seed", 1)[0] == 1
        assert not Path("kept").exists()
        assert list(Path("other").glob("gather/*.json"))
        assert indexfuzz("run", *TOY, "--cases", 1)[2] == (
            "error: no device 'abacus'; choose one of lockstep, lockstep:sm90, lockstep:cdna3, "
            "lockstep:order, interpreter, cuda\n"
        )

    @pytest.mark.parametrize("command", COMMANDS)
    def test_an_unknown_setting_is_2(self, indexfuzz, tmp_path, command):
        self.write(tmp_path, 'implementation = "x"')
        complaint = "error: pyproject.toml: tool.indexfuzz has no setting 'implementation'; "
        assert indexfuzz(command)[::2] == (2, f"{complaint}choose from corpus, device, impl, timeout, values\n")

    def test_what_a_planted_bug_shows_is_kept_apart(self, indexfuzz, tmp_path):
        """Whatever the project tests, faults are planted in the built-in kernels, and its corpus stays as it is."""
        self.write(tmp_path, 'impl = "module:toy_gather"', 'corpus = "kept"')
        code, out, _ = indexfuzz("run", "--fault", "layout-hardcoded-shuffle", "--seed", 3)
        (path,) = Path(".indexfuzz/planted").glob("k_quant_cache/*.json")
        assert code == 1
        assert f"again: indexfuzz replay {path} --fault layout-hardcoded-shuffle" in out
        assert not Path("kept").exists()


class TestMutate:
    def test_lists_what_the_words_choose(self, indexfuzz):
        code, out, _ = indexfuzz("mutate", "loop", "--list")
        assert code == 0
        assert all("range(" in line.partition("  loop: ")[2] for line in out.splitlines())
        data = json.loads(indexfuzz("mutate", "cast", "--list", "--json")[1])
        assert {row["operator"] for row in data} == {"cast"}
        assert "equivalent" in {row["known"] for row in data}

    def test_a_wrong_word_or_folder_is_2(self, indexfuzz):
        code, _, err = indexfuzz("mutate", "nix")
        assert code == 2
        assert "no mutant, operator or kernel file is called 'nix'; `indexfuzz mutate --list`" in err
        assert indexfuzz("mutate", "loop", "--markdown", "no/where.md")[0] == 2

    def test_found_is_0_and_a_survivor_that_nobody_explains_is_1(self, indexfuzz):
        mutants = json.loads(indexfuzz("mutate", "gather", "--list", "--json")[1])
        found = next(row["id"] for row in mutants if row["new"] == "(token <= num_tokens)")
        code, out, _ = indexfuzz("mutate", found, "--cases", 40, "--markdown", "page.md")
        assert code == 0
        assert "score 100.0%: of 1 mutants 1 found" in out
        assert "score 100.0%" in Path("page.md").read_text()
        rare = next(row["id"] for row in mutants if row["old"] == "token.to(tl.int64)")
        code, out, err = indexfuzz("mutate", rare, "--cases", 1, "--json")
        assert code == 1
        assert json.loads(out)["survivors"] == [rare]
        assert f"survived: {rare}" in err


class TestCoverage:
    RUN = ("run", "--stage", "paged_logits", "--cases", 3, "--seed", 3, "--coverage")

    def test_lists_what_is_missing_after_the_summary(self, indexfuzz):
        code, out, _ = indexfuzz(*self.RUN, "--coverage-listing", "listing.txt")
        assert code == 0
        summary, table = out.split("nothing new")
        assert "done: 3 cases" in summary
        table, unturned = table.split("\n\nconditions of launchers and callers that always ended the same way\n")
        unturned, inside = unturned.split("\n\nconditions inside kernels that always ended the same way\n")
        head, *gaps = table.strip().splitlines()
        seen, total = map(int, re.fullmatch(r"mask coverage: (\d+) of (\d+) operations .*", head).groups())
        assert 0 < seen < total == seen + len(gaps)
        assert all(re.search(r"kernels/\w+\.py:\d+ +\w+ +never ", gap) for gap in gaps)
        assert "conditions of launchers and callers: " in summary
        line = re.compile(r"  (\S*kernels/\w+\.py:\d+  .*  always (True|False); \w.*)")
        for lines in (unturned.splitlines(), inside.splitlines()):
            assert lines == [found[0] for found in map(line.fullmatch, lines)]
        assert "SHUFFLE  always True; no numbers are compared" in inside
        assert "conditions inside kernels: " in summary
        assert "logits.numel() == 0  always False; no case has next_n 0 or max_model_len 0" in unturned
        listing = Path("listing.txt").read_text().splitlines()
        assert any(line.endswith("kernels/paged_mqa_logits.py") for line in listing)
        assert sum(line.startswith("! ") for line in listing) >= len({gap.split()[0] for gap in gaps})

    def test_more_cases_leave_less(self, indexfuzz):
        def seen(cases):
            words = (*self.RUN[:3], "--cases", cases, *self.RUN[5:], "--json")
            rows = json.loads(indexfuzz(*words)[1])["coverage"]
            return {(row["file"], row["line"], row["kind"], state) for row in rows for state in row["seen"]}

        assert seen(2) < seen(20)

    def test_is_only_in_the_json_that_asks_for_it(self, indexfuzz):
        assert "coverage" not in json.loads(indexfuzz(*self.RUN[:-1], "--json")[1])

    def test_needs_lockstep(self, pytorch_device, monkeypatch):
        monkeypatch.setattr("indexfuzz.devices.open_device", lambda _name: pytorch_device)
        with pytest.raises(InputError, match="--coverage: device pytorch does not see masks"):
            covering(Setup())

    @pytest.mark.parametrize("words", [("--isolate",), ("--python", sys.executable)])
    def test_needs_this_process(self, indexfuzz, words):
        code, _, err = indexfuzz(*self.RUN, *words)
        assert code == 2
        assert err == "error: --coverage sees the masks of this process only; leave out --isolate and --python\n"

    def test_a_listing_that_cannot_be_written_is_2(self, indexfuzz):
        code, _, err = indexfuzz(*self.RUN, "--coverage-listing", "no/such/folder")
        assert code == 2
        assert err.startswith("error: --coverage-listing: ")

    def test_a_listing_needs_coverage(self, indexfuzz):
        code, _, err = indexfuzz("run", "--coverage-listing", "listing.txt")
        assert (code, err) == (2, "error: --coverage-listing needs --coverage\n")


def test_launches_whose_order_of_lanes_was_looked_at_are_counted(indexfuzz):
    words = ("run", "--stage", "gather", "--cases", 3, "--seed", 1)
    told = json.loads(indexfuzz(*words, "--device", "lockstep:order", "--json")[1])
    assert told["ordered"].keys() == {"_gather_kernel"}
    text = indexfuzz(*words, "--device", "lockstep:order")[1]
    assert f"launches whose order of lanes was looked at: _gather_kernel {told['ordered']['_gather_kernel']}\n" in text
    assert json.loads(indexfuzz(*words, "--json")[1])["ordered"] == {}


class TestPlantedBugs:
    @pytest.mark.parametrize("fault", ["layout-hardcoded-shuffle", "rope-result-discarded"])
    def test_planted_bugs_are_found_and_end_the_run(self, indexfuzz, fault):
        code, out, _ = indexfuzz("run", "--fault", fault, "--seed", 3, "--corpus", "kept")
        assert code == 1
        stage = {"layout-hardcoded-shuffle": "k_quant_cache", "rope-result-discarded": "rope"}[fault]
        entries = {path: store.load(path) for path in Path("kept").glob(f"{stage}/*.json")}
        ((path, entry),) = ((path, entry) for path, entry in entries.items() if not entry.cause)
        assert entry.case.batch.tokens <= 2
        assert entry.finding.detail in out
        assert entry.status == "guard"
        assert indexfuzz("replay", path)[:1] == (0,)
        assert indexfuzz("replay", path, "--fault", fault)[:1] == (1,)


class TestReplay:
    def test_says_what_became_of_each_case(self, indexfuzz, tmp_path):
        still = kept(tmp_path / "corpus")
        fixed = kept(tmp_path / "corpus", ONE_KEY)
        passes = kept(tmp_path / "corpus", ONE_KEY.replace(values={"seed": 1}), status="guard")
        changed = kept(tmp_path / "corpus", TWO_KEYS.replace(values={"seed": 1}), "gather/crash/KeyError")
        unreached = kept(tmp_path / "corpus", NO_KEYS)
        broken = still.with_name("0123456789abcdef.json")
        broken.write_text("{")
        code, out, _ = indexfuzz("replay", *TOY, "--corpus", "corpus")
        assert code == 1
        lines = {line.split("corpus/")[1].split("  ")[0]: line for line in out.splitlines()}
        starts = {still: "STILL FAILS", fixed: "FIXED  ", passes: "PASSES  ", changed: "CHANGED  "}
        starts |= {unreached: "ERROR  ", broken: "ERROR  "}
        assert len(lines) == len(starts)
        for path, start in starts.items():
            assert lines[f"gather/{path.name}"].startswith(start)
        assert "does not reach the stage gather" in lines[f"gather/{unreached.name}"]

    def test_exit_codes(self, indexfuzz, tmp_path, monkeypatch):
        path = kept(tmp_path / "corpus")
        assert indexfuzz("replay", path, *TOY)[0] == 1
        monkeypatch.setenv("TOY", "right")
        assert indexfuzz("replay", path, *TOY)[0] == 0
        assert indexfuzz("replay", path, kept(tmp_path / "corpus", NO_KEYS), *TOY)[0] == 2

    def test_by_id_by_its_start_and_by_folder(self, indexfuzz, tmp_path):
        path = kept(tmp_path / "corpus")
        for name in (path.stem, path.stem[:6], "corpus", "corpus/gather"):
            code, out, _ = indexfuzz("replay", name, "--corpus", "corpus", *TOY)
            assert code == 1
            assert out.startswith(f"STILL FAILS corpus/gather/{path.name}  {SIGNATURE}: token 1 is ")

    def test_an_internal_error_concerns_one_case(self, indexfuzz, tmp_path, monkeypatch):
        kept(tmp_path / "corpus")
        monkeypatch.setattr("indexfuzz.cli.replay.replay_entry", lambda *_: 1 / 0)
        code, out, _ = indexfuzz("replay", "corpus", *TOY)
        assert code == 3
        assert "internal error: ZeroDivisionError" in out

    def test_tells_the_issue(self, indexfuzz, tmp_path):
        path = kept(tmp_path / "corpus", link="https://example.org/issues/7")
        assert indexfuzz("replay", path, *TOY)[1].endswith("  https://example.org/issues/7\n")
        data = json.loads(indexfuzz("replay", path, *TOY, "--json")[1])
        assert data["cases"][0]["link"] == "https://example.org/issues/7"

    def test_json(self, indexfuzz, tmp_path):
        path = kept(tmp_path / "corpus")
        data = json.loads(indexfuzz("replay", path, *TOY, "--json")[1])
        assert data["implementation"] == "toy 1.0"
        assert data["cases"][0]["status"] == "STILL FAILS"
        assert data["cases"][0]["findings"][0]["signature"] == SIGNATURE


class TestOneCase:
    def test_minimize(self, indexfuzz, tmp_path):
        big = TWO_KEYS.replace(model={"num_heads": 8}, batch={"prefill": ({"length": 30, "new": 3},) * 2})
        path = kept(tmp_path / "corpus", big)
        code, out, _ = indexfuzz("minimize", path, *TOY)
        (small,) = set(path.parent.iterdir()) - {path}
        assert code == 0
        assert str(small.relative_to(tmp_path)) in out
        assert store.load(small).case.batch.keys == 2
        assert indexfuzz("minimize", small, *TOY, "--out", "small.json")[:1] == (0,)
        assert store.load(Path("small.json")).case == store.load(small).case

    def test_minimize_what_does_not_fail_is_2(self, indexfuzz, tmp_path):
        code, _, err = indexfuzz("minimize", kept(tmp_path / "corpus", ONE_KEY), *TOY)
        assert code == 2
        assert "does not show gather/code-mismatch/k_scale on toy 1.0" in err

    @pytest.mark.parametrize("command", ["minimize", "repro"])
    def test_asked_of_the_wrong_kernels_it_says_where_the_finding_was_seen(self, indexfuzz, tmp_path, command):
        code, _, err = indexfuzz(command, kept(tmp_path / "corpus"))
        assert code == 2
        assert f"does not show {SIGNATURE} on builtin" in err or f"builtin does not show {SIGNATURE}" in err
        assert "; it was seen on toy 1.0, which --impl or --fault names" in err

    def test_a_script_that_fails_in_another_way_is_none(self, indexfuzz, tmp_path, monkeypatch):
        """One that builtin cannot run at all: head_dim 16."""
        failing = Proof(shows=True, last_line="ValueError: head_dim must be 32, 64 or 128, got 16")
        monkeypatch.setattr("indexfuzz.triage.prove.run_script", lambda _text: failing)
        code, out, err = indexfuzz("repro", kept(tmp_path / "corpus"))
        assert (code, out) == (2, "")
        assert f"builtin does not show {SIGNATURE}; it was seen on toy 1.0" in err

    def test_show(self, indexfuzz, tmp_path):
        case = TWO_KEYS.replace(values={"set": {"k": ((0, 3, (1.5).hex()),)}})
        told = {"note": "seen in production", "link": "https://example.org/issues/7"}
        code, out, _ = indexfuzz("show", kept(tmp_path / "corpus", case, **told))
        assert code == 0
        for text in (
            *told.values(),
            "a request of 2 tokens, none of them new",
            "k[0, 3] = 1.5",
            SIGNATURE,
            "token 1 is 2, must be 1",
            "first wrong element   [1]",
            "toy 1.0, lockstep, triton 3.6.0",
        ):
            assert text in out
        assert "rope_dim" not in out

    def test_show_says_what_happens_now(self, indexfuzz, tmp_path, monkeypatch):
        path = kept(tmp_path / "corpus")
        words = ("show", path, *TOY[:2])
        code, out, _ = indexfuzz(*words)
        assert code == 0
        assert "Now, on toy 1.0 on lockstep: STILL FAILS\n  It passes with batch.prefill[0] 1 token instead" in out
        assert "Does not matter: cache" in out
        monkeypatch.setenv("TOY", "right")
        assert "Now, on toy 1.0 on lockstep: FIXED" in indexfuzz(*words)[1]
        assert json.loads(indexfuzz(*words, "--json")[1])["now"]["status"] == "FIXED"
        assert "now" not in json.loads(indexfuzz("show", path, "--json")[1])

    def test_show_writes_a_picture(self, indexfuzz, tmp_path):
        path, picture = kept(tmp_path / "corpus"), tmp_path / "picture.svg"
        code, out, _ = indexfuzz("show", path, *TOY[:2], "--picture", picture)
        assert code == 0
        assert "k_scale: token: actual, against the reference" in out
        assert picture.read_text().startswith("<svg ")

    def test_minimize_that_ran_out_of_time_says_how_to_go_on(self, indexfuzz):
        path = kept(Path("corpus"))
        code, out, _ = indexfuzz("minimize", path, *TOY[:2], "--seconds", 0)
        assert code == 0
        assert f"it may get smaller yet: indexfuzz minimize {path} --impl module:toy_gather" in " ".join(out.split())
        assert "minimal already" not in out
        assert "it may get smaller yet" not in indexfuzz("minimize", path, *TOY[:2])[1]

    def test_show_writes_a_picture_as_png(self, indexfuzz, tmp_path):
        pytest.importorskip("PIL")
        code, _, _ = indexfuzz("show", kept(tmp_path / "corpus"), *TOY[:2], "--picture", tmp_path / "picture.png")
        assert code == 0
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")

    def test_png_without_its_extra_is_2_before_anything_runs(self, indexfuzz, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "PIL", None)
        monkeypatch.delitem(sys.modules, "indexfuzz.report.pictures.png", raising=False)
        words = ("show", kept(tmp_path / "corpus"), "--impl", "module:no_such_module", "--picture", "picture.png")
        code, _, err = indexfuzz(*words)
        assert code == 2
        assert "PNG needs Pillow" in err
        assert "pip install 'indexfuzz[png]', or name a .svg" in err

    @pytest.mark.parametrize(
        ("words", "complaint"),
        [
            (("--picture", "picture.svg"), "a picture needs a finding that --impl or --fault shows"),
            ((*TOY[:2], "--picture", "picture.jpg"), "name a file that ends in .svg or .png"),
        ],
    )
    def test_no_picture_is_2(self, indexfuzz, tmp_path, words, complaint):
        code, _, err = indexfuzz("show", kept(tmp_path / "corpus"), *words)
        assert code == 2
        assert complaint in err

    def test_show_explains_how_strictly_it_was_judged(self, indexfuzz, tmp_path):
        finding = Finding("gather", "code-mismatch", "k_scale", "wrong", tier="T2")
        path = Corpus(tmp_path).save(Entry(case=TWO_KEYS, finding=Record.of(finding)))
        assert "T2: the matrix unit sums in order, the bound is that of its order" in indexfuzz("show", path)[1]

    def test_show_json(self, indexfuzz, tmp_path):
        data = json.loads(indexfuzz("show", kept(tmp_path / "corpus"), "--json")[1])
        assert data["id"] == TWO_KEYS.id
        assert data["finding"]["index"] == [1]

    def test_repro_is_a_script_that_shows_the_bug(self, indexfuzz, tmp_path, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        code, out, _ = indexfuzz("repro", kept(tmp_path / "corpus"), *TOY[:2])
        assert code == 0
        Path("bug.py").write_text(out)
        words = [sys.executable, "bug.py"]
        for mode, expected in (("wrong", 1), ("right", 0)):
            done = subprocess.run(words, env=os.environ | {"TOY": mode}, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (expected, "")
            assert done.stdout.startswith("k_scale[1] is ")
