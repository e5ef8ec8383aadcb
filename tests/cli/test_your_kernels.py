"""The template of `new-impl`, and every block of docs/your-kernels.md, run in a folder of their own."""

import linecache
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from indexfuzz.campaign import jobs
from indexfuzz.cli.new_impl import LAYOUTS, template
from indexfuzz.core.case import Case
from indexfuzz.core.stage_names import STAGE_NAMES
from indexfuzz.devices import open_device
from indexfuzz.implementations import load
from indexfuzz.implementations.template import implementation as own_kernels
from indexfuzz.reference.layout import resolve
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.triage.prove import Proof

PAGE = Path(__file__).parents[2] / "docs" / "your-kernels.md"
BLOCKS = re.findall(r"^```(python|toml|console)(?: (\S+))?\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
MODULES = ("my_kernels", "page_gather", "in_python", "own")


@pytest.fixture
def indexfuzz(indexfuzz, monkeypatch, tmp_path):
    """Run the command line on what its modules are now; -> (exit code, standard output, standard error).

    Cases stay as they were drawn, so that nothing depends on the time.
    """
    monkeypatch.setattr("indexfuzz.subjects.fresh.shows_in_fresh_process", lambda *_: True)
    monkeypatch.setattr(jobs, "minimise", partial(_minimise_nothing, jobs.minimise))
    monkeypatch.syspath_prepend(tmp_path)

    def run(*words):
        forget()
        return indexfuzz(*words)

    yield run
    forget()


def _minimise_nothing(minimise, *question, **_):
    return minimise(*question, seconds=0.0)


def forget():
    """Let modules that were written anew be imported anew."""
    for name in MODULES:
        sys.modules.pop(name, None)
    for file in [file for file in linecache.cache if Path(file).stem in MODULES]:
        del linecache.cache[file]


class TestTemplate:
    def test_runs_at_once(self, indexfuzz):
        assert indexfuzz("new-impl", "own") == (0, "wrote own.py\n  next: indexfuzz run --impl module:own\n", "")
        words = ("--no-isolate", "--cases", "8", "--seed", "1", "--corpus", "known")
        code, out, _ = indexfuzz("run", "--impl", "module:own", *words)
        assert (code, "fuzzing own 0.1 on lockstep" in out, "nothing new" in out) == (0, True, True)
        assert list(Path().glob(".*")) == []

    def test_it_promises_no_layout_that_nobody_named(self):
        assert "Clause(" not in template()
        assert "layout" not in template().partition("CONTRACT =")[2]

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_it_promises_the_layout_that_is_named(self, indexfuzz, layout):
        assert indexfuzz("new-impl", "own", "--layout", layout)[0] == 0
        contract = load("module:own").contract
        for stage in ("k_quant_cache", "gather", "paged_logits"):
            for case_layout, block_size in (("auto", 1), ("auto", 16), ("normal", 16), ("shuffle", 16)):
                case = Case().replace(cache={"layout": case_layout, "block_size": block_size})
                holds = case_layout == "auto" if layout == "auto" else resolve(case_layout, block_size) == layout
                assert (contract.outside(stage, case) is None) == holds

    @pytest.mark.parametrize("stage", sorted(own_kernels.stages))
    def test_it_has_the_stages_that_are_named(self, indexfuzz, stage):
        assert indexfuzz("new-impl", "own", "--stages", stage, "--layout", "normal")[0] == 0
        assert list(load("module:own").stages) == [stage]
        words = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", "own.py"]
        assert subprocess.run(words, check=False, capture_output=True, text=True).stdout == "All checks passed!\n"

    def test_a_stage_or_a_layout_that_there_is_not(self, indexfuzz):
        assert indexfuzz("new-impl", "own", "--stages", "gathr")[2] == (
            "error: --stages: no 'gathr'; did you mean 'gather'?\n"
        )
        assert indexfuzz("new-impl", "own", "--layout", "shufle")[2] == (
            "error: --layout: no 'shufle'; did you mean 'shuffle'?\n"
        )

    def test_it_has_all_seven_stages(self):
        assert tuple(own_kernels.stages) == STAGE_NAMES

    def test_an_operation_beside_the_stages_is_written_by_hand(self, indexfuzz):
        code, _, err = indexfuzz("new-impl", "own", "--stages", "gather,fused_q")
        told = "error: --stages: the template has no fused_q; write it by hand: ARCHITECTURE.md has its signature\n"
        assert (code, err, list(Path().glob("*.py"))) == (2, told, [])

    def test_rope_in_place_changes_what_it_is_given(self):
        case = Case().replace(rope={"mode": "inplace"})
        assert not InProcess(own_kernels, open_device("lockstep")).run(case).findings

    def test_an_existing_file_stays(self, indexfuzz):
        Path("own.py").write_text("mine")
        code, _, err = indexfuzz("new-impl", "own")
        assert (code, err) == (2, "error: own.py exists already; choose another name, or remove it\n")
        assert (Path("own.py").read_text(), list(Path().glob(".*"))) == ("mine", [])

    @pytest.mark.parametrize("name", ["torch", "json", "indexfuzz", "__main__"])
    def test_a_name_that_something_else_has(self, indexfuzz, name):
        code, _, err = indexfuzz("new-impl", name)
        told = f"error: {name} is the name of a module that is installed, which {name}.py would hide; choose another\n"
        assert (code, err, list(Path().glob("*.py"))) == (2, told, [])

    @pytest.mark.parametrize("name", ["a.b", "../a", "import", "1a", "a-b"])
    def test_a_name_that_is_none(self, indexfuzz, name):
        code, _, err = indexfuzz("new-impl", name)
        assert (code, err.startswith(f"error: {name!r} is no name of a Python module")) == (2, True)

    @pytest.mark.usefixtures("indexfuzz")
    def test_a_wrong_kernel_in_it_is_found(self):
        right = "cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, quant_group"
        assert template().count(right) == 1
        Path("own.py").write_text(template().replace(right, right.replace("token_to_seq", "0 * token_to_seq")))
        case = Case().replace(batch={"prefill": ({"length": 3, "new": 0}, {"length": 2, "new": 0})})
        outcome = InProcess(load("module:own"), open_device("lockstep")).run(case)
        assert {finding.stage for finding in outcome.findings} == {"gather"}


COMPARED = re.compile(
    r"^(fuzzing|found|gather|FIXED|PASSES|STILL FAILS|nothing new|wrote|corpus/|  (within|at|head_dim|every|pages))"
)
"""Lines of output that must come out as the page shows them; the others depend on the time."""


def test_every_block_of_the_page(indexfuzz, run_copied):
    kept = {}
    for language, file, text in BLOCKS:
        if language != "console":
            Path(file).write_text(text)
        else:
            for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
                _perform(command, output, kept, indexfuzz)
    forget()
    assert run_copied(Path("in_python.py").read_text()) == Proof(shows=False, last_line="")


def _perform(command, output, kept, indexfuzz):
    """Run a command of the page, in this process; ids of cases are those that were really found."""
    words = [kept.get(word, word) for word in shlex.split(command)]
    if words[0] == "pytest":
        command = [sys.executable, "-m", *words, "--no-fuzz-isolate", "-p", "no:cacheprovider"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1].startswith(output.strip())
        return
    _, out, err = indexfuzz(*words[1:], *(("--no-isolate",) if words[1] in ("run", "replay") else ()))
    assert not err
    for shown in re.findall(r"corpus/gather/\w+\.json", output):
        kept.setdefault(shown, str(next(Path("corpus").glob("gather/*.json"), shown)))
    for shown, real in kept.items():
        output = output.replace(shown, real)
    out = out.replace(f"{Path.cwd()}/", "")
    wanted = [line for line in output.splitlines() if COMPARED.match(line)]
    assert [line for line in wanted if line not in out.splitlines()] == []
