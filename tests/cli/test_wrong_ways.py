"""Wrong ways to use the command line, as a table: each gets one line that names what is wrong, and exit code 2."""

import json
import os
import sys
from pathlib import Path

import pytest

from indexfuzz.cli import GROUPS
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.corpus.entry import Entry, Record

COMMANDS = [command.__name__.replace("_", "-") for commands in GROUPS.values() for command in commands]
CASE = Case().replace(batch={"prefill": ({"length": 2, "new": 0},)})
FILE = f"corpus/gather/{CASE.id}.json"

PARSING = {
    "walk": "No such command 'walk'",
    "--versoin": "No such option: --versoin",
    "rnu": "No such command 'rnu'",
    "run --sedd 1": "No such option: --sedd",
    "run gather": "unexpected extra argument",
    "run --seed": "Option '--seed' requires an argument",
    "run --seed -1": "'--seed': Input should be greater than or equal to 0",
    "fleet": "Missing option '--shared'",
    "fleet --shared x --slices 0": "'--slices': Input should be greater than or equal to 1",
    "run --seed x": "'--seed': Input should be a valid integer",
    "run --seed 1.5": "'--seed': Input should be a valid integer",
    "run --cases 0": "'--cases': Input should be greater than or equal to 1",
    "run --cases -3": "'--cases': Input should be greater than or equal to 1",
    "run --cases many": "'--cases': Input should be a valid integer",
    "run --seconds -1": "'--seconds': Input should be greater than or equal to 0",
    "run --seconds long": "'--seconds': Input should be a valid number",
    "run --timeout 0": "'--timeout': Input should be greater than or equal to 0.1",
    "run --timeout -1": "'--timeout': Input should be greater than or equal to 0.1",
    "run --timeout x": "'--timeout': Input should be a valid number",
    "run --coverage=yes": "Option '--coverage' does not take a value",
    "run --json=1": "Option '--json' does not take a value",
    "show": "Missing argument 'FILE'",
    "show a b": "unexpected extra argument",
    "minimize": "Missing argument 'FILE'",
    "minimize x --seconds -1": "'--seconds': Input should be greater than or equal to 0",
    "minimize x --seconds x": "'--seconds': Input should be a valid number",
    "repro": "Missing argument 'FILE'",
    "severity": "Missing argument 'FILE'",
    "triage": "Missing argument 'FILE'",
    "new-impl": "Missing argument 'NAME'",
    "faults x": "unexpected extra argument",
    "presets x": "unexpected extra argument",
    "mutate --workers 0": "'--workers': Input should be greater than or equal to 1",
    "mutate --cases 0": "'--cases': Input should be greater than or equal to 1",
    "mutate --seed -1": "'--seed': Input should be greater than or equal to 0",
}
"""What cannot be parsed."""

OPTIONS = {
    "run --seconds 1 --cases 1": "--seconds and --cases exclude each other",
    "run --stage gathr": "--stage: no 'gathr'; did you mean 'gather'?",
    "run --stage gather,topk,ropes": "--stage: no 'ropes'; did you mean 'rope'?",
    "run --stage GATHER": "--stage: no 'GATHER'; choose from compress, compress_norm, fused_compress, fused_k",
    "run --values odd": "--values: no 'odd'; choose from",
    "run --values norml": "--values: no 'norml'; did you mean 'normal'?",
    "fleet --shared x --slice-seconds 1 --slice-cases 1": "--slice-seconds and --slice-cases exclude each other",
    "fleet --shared x --slice-seconds 0": "--slice-seconds: 0 s is no time to test in",
    "fleet --shared x --working-dir nowhere": "--working-dir nowhere: no such folder",
    "fleet --shared x --values odd": "--values: no 'odd'",
    "fleet --shared x --preset glm": "--preset: no 'glm'; did you mean 'glm-5'?",
    "run --preset gpt": "--preset: no 'gpt'; choose from deepseek-v3.2",
    "run --preset glm": "--preset: no 'glm'; did you mean 'glm-5'?",
    "run --shard 3/2": "--shard: '3/2' must be I/N",
    "run --shard 0/2": "--shard: '0/2' must be I/N",
    "run --shard 1": "--shard: '1' must be I/N",
    "run --shard a/b": "--shard: 'a/b' must be I/N",
    "run --shard 1/0": "--shard: '1/0' must be I/N",
    "run --shard -1/2": "--shard: '-1/2' must be I/N",
    "run --device abacus": "no device 'abacus'; choose one of lockstep",
    "run --device lockstep:sm99": "no device 'lockstep:sm99'",
    "run --device Cuda": "no device 'Cuda'",
    "run --fault nix": "no fault 'nix'; `indexfuzz faults` lists them",
    "run --fault relu-mising": "no fault 'relu-mising'; did you mean 'relu-missing'?",
    "run --impl module:nix --no-isolate": "there is no nix.py here, nor on Python's path; `indexfuzz new-impl nix`",
    "run --fault rope-result-discarded --impl module:right --no-isolate": "faults are planted in the built-in kernels",
    "run --coverage-listing x": "--coverage-listing needs --coverage",
    "run --coverage --isolate": "--coverage sees the masks of this process only",
    "run --coverage --python python3": "--coverage sees the masks of this process only",
    "run --no-isolate --python python3": "--python needs a process of its own",
    "run --no-isolate --timeout 5": "--timeout needs a process of its own",
    "run --timeout 5": "--timeout needs a process of its own",
    "run --python no/python --cases 1": "no/python",
    "run --corpus a-file": "a-file is a file; give the folder",
    "run --out a-file": "a-file is a file; give the folder",
    "run --impl nix --no-isolate": "no implementation 'nix'; `indexfuzz impls` lists them",
    "run --impl builtn --no-isolate": "no implementation 'builtn'; did you mean 'builtin'?",
    "run --impl builtin:x --no-isolate": "builtin takes no path",
    "run --impl module: --no-isolate": "module needs more: module:NAME",
    "run --impl vllm --no-isolate": "vllm needs more: vllm:PATH",
    "run --impl vllm: --no-isolate": "vllm needs more: vllm:PATH",
    "run --impl vllm:nix.whl --no-isolate": "nix.whl",
    "run --impl vllm:empty --no-isolate": "empty",
    "run --impl vllm:a-file --no-isolate": "a-file",
    "run --impl vllm:broken.whl --no-isolate": "broken.whl",
    "run --impl vllm-torch:nix --no-isolate": "nix",
    "run --impl sglang:nix --no-isolate": "nix",
    "run --impl sglang-kpool:empty --no-isolate": "empty",
    "run --impl aiter:nix --no-isolate": "nix",
    "run --impl aiter-stage1:empty --no-isolate": "empty",
    "impls nix": "no implementation 'nix'",
    "impls vllm:nix.whl": "nix.whl",
    "replay nix": "nix: no such file or folder, and no case in corpus has an id that starts so",
    "replay empty": "empty: no corpus files (<stage>/<id>.json) in this folder",
    "replay --fault nix": "no fault 'nix'",
    "replay --device abacus": "no device 'abacus'",
    "show nix": "nix: no such file or folder",
    "show empty": "no corpus files",
    "show corpus/gather/0123456789abcdef.json": "no such file or folder",
    "show two": "two stands for 2 files, this command takes one",
    f"show {FILE} --fault nix": "no fault 'nix'",
    f"minimize {FILE}": "does not show gather/code-mismatch/k_scale on builtin",
    f"minimize {FILE} --impl nix --no-isolate": "no implementation 'nix'",
    f"severity {FILE} --stage gathr": "--stage: no 'gathr'; did you mean 'gather'?",
    f"severity {FILE} --impl nix": "no implementation 'nix'",
    f"repro {FILE} --device abacus": "no device 'abacus'",
    f"triage {FILE}": "nothing to change; give --status, --note or --link",
    f"triage {FILE} --status done": "--status: no 'done'; choose from",
    "triage guard --status open": "status open needs a finding",
    "minimize guard": "finding: this case never showed one",
    "repro guard": "finding: this case never showed one",
    "severity guard": "finding: this case never showed one",
    "new-ci nix": "nix: no such folder",
    "new-impl a.b": "'a.b' is no name of a Python module",
    "new-impl import": "'import' is no name of a Python module",
    "new-impl 1a": "'1a' is no name of a Python module",
    "new-impl ../a": "'../a' is no name of a Python module",
    "new-impl right": "right.py exists already; choose another name, or remove it",
    "new-impl a --stages gathr": "--stages: no 'gathr'; did you mean 'gather'?",
    "new-impl a --layout flat": "--layout: no 'flat'",
    "bench nix": "no benchmark 'nix'; choose one of",
    "bench oracle --workers 2": "bench oracle takes no --workers",
    "bench conformance . --against .": "bench conformance takes no --against",
    "bench throughput --workers 2,x": "--workers 2,x: give numbers of processes, such as 1,2,4",
    "bench findings --faults nix": "--faults: no fault 'nix'; `indexfuzz faults` lists them",
    "bench oracle --faults relu-missing": "bench oracle takes no --faults",
    "bench oracle --device cuda": "bench oracle takes no --device",
    "bench throughput --impl vllm": "bench throughput measures the built-in kernels only",
    "mutate nix": "no mutant, operator or kernel file is called 'nix'",
    "mutate loop --markdown no/where.md": "--markdown: no is no folder",
}
"""Options that contradict each other, and names of what there is not."""

FILES = {
    "": "not JSON",
    " ": "not JSON",
    "{": "not JSON: line 1, column 2",
    "nonsense": "not JSON",
    "[]": "",
    "3": "",
    "null": "",
    '"text"': "",
    "{}": "schema",
    '{"schema": 1}': "case",
    '{"schema": "1", "case": {}}': "schema",
    '{"schema": 0, "case": {}}': "schema",
    '{"schema": 99, "case": {}}': "schema: version 99 is newer than 1",
    '{"schema": 1, "schema": 1, "case": {}}': "schema",
    '{"schema": 1, "case": []}': "case",
    '{"schema": 1, "case": {"modle": {}}, "status": "guard"}': "modle",
    '{"schema": 1, "case": {"model": {"num_heads": "8"}}, "status": "guard"}': "num_heads",
    '{"schema": 1, "case": {"model": {"num_heads": 0}}, "status": "guard"}': "num_heads",
    '{"schema": 1, "case": {"model": {"num_heads": 1e9}}, "status": "guard"}': "num_heads",
    '{"schema": 1, "case": {"model": {"num_heads": NaN}}, "status": "guard"}': "",
    '{"schema": 1, "case": {"batch": {"decode": [5], "max_model_len": 1}}, "status": "guard"}': "decode",
    '{"schema": 1, "case": {"cache": {"page_pad": 3}}, "status": "guard"}': "page_pad",
    '{"schema": 1, "case": {"values": {"q": "odd"}}, "status": "guard"}': "values.q",
    '{"schema": 1, "case": {"values": {"set": {"x": []}}}, "status": "guard"}': "'x' is no tensor",
    '{"schema": 1, "case": {"values": {"set": {"q": [[1]]}}}, "status": "guard"}': "values.set",
    '{"schema": 1, "case": {}, "status": "guard", "more": 1}': "more",
    '{"schema": 1, "case": {}, "status": "done"}': "status",
    '{"schema": 1, "case": {}, "status": "open"}': "status open needs a finding",
    '{"schema": 1, "case": {}, "finding": {"signature": "nix/crash/x", "detail": ""}}': "nix",
    '{"schema": 1, "case": {}, "finding": {"signature": "", "detail": ""}}': "signature",
    '{"schema": 1, "case": {}, "finding": {"signature": "gather/../x", "detail": ""}}': "",
    '{"schema": 1, "case": {}, "status": "guard", "note": "\\u001b[31m"}': "note",
    '{"schema": 1, "case": {}, "status": "guard", "seen": [{}]}': "seen",
    "[" * 100_000: "",
    "\ufeff{}": "",
    "\x00\x01": "",
}
"""Texts of a file that is no entry of a corpus -> what names the mistake."""

MODULES = {
    "": "must define `implementation`, an instance of indexfuzz.Implementation; it has none",
    "1 / 0": "ZeroDivisionError: division by zero (wrong.py:1)",
    "def f(:": "SyntaxError",
    "import nix": "ModuleNotFoundError: No module named 'nix' (wrong.py:1)",
    "raise SystemExit(0)": "SystemExit",
    "implementation = None": "it has none",
    "implementation = {}": "it has a dict",
    "implementation = Implementation": "it has a type",
    "implementation = lambda: 0": "it has a function",
    "implementation = Implementation('x')": "TypeError",
    "implementation = Implementation('x', {})": "x has no stages",
    "implementation = Implementation('', {'gather': f})": "one line of text",
    "implementation = Implementation(3, {'gather': f})": "one line of text",
    "implementation = Implementation('x', {'gathr': f})": "did you mean 'gather'?",
    "implementation = Implementation('x', {'gather ': f})": "did you mean 'gather'?",
    "implementation = Implementation('x', {'Gather': f})": "did you mean 'gather'?",
    "implementation = Implementation('x', {'gather': None})": "must be a function, not nothing",
    "implementation = Implementation('x', {'gather': 'f'})": "must be a function, not a str",
    "implementation = Implementation('x', {'gather': f()})": "must be a function, not nothing",
    "implementation = Implementation('x', [('gather', f)])": "stages must be a dictionary",
    "implementation = Implementation('x', {f: 'gather'})": "there is no stage",
    "implementation = Implementation('x', {'gather': lambda cache: 0})": "does not take block_table",
    "implementation = Implementation('x', {'gather': lambda *a: 0})": "does not take cache",
    "implementation = Implementation('x', {'gather': lambda s, **a: 0})": "asks for s, which it does not get",
    "implementation = Implementation('x', {'rope': f, 'gather': lambda: 0})": "does not take cache",
    "implementation = Implementation('x', {'gather': f}, None)": "contract must be an instance of Clauses",
    "implementation = Implementation('x', {'gather': f}, [])": "contract must be an instance of Clauses",
    "implementation = Implementation('x', {'gather': f}, Clauses)": "contract must be an instance of Clauses",
    "implementation = Implementation('x', {'gather': f}, Clauses(3))": "Clauses takes a tuple of clauses, not an int",
    "implementation = Implementation('x', {'gather': f}, Clauses(('dense',)))": "clause 1 of the contract",
    "implementation = Implementation('x', {'gather': f}, one(('gathr',), f, 'a', 'b'))": "no stage 'gathr'",
    "implementation = Implementation('x', {'gather': f}, one('gather', f, 'a', 'b'))": "in a tuple",
    "implementation = Implementation('x', {'gather': f}, one(('gather',), 1, 'a', 'b'))": "needs a function",
    "implementation = Implementation('x', {'gather': f}, one(('gather',), f, 1, 'b'))": "both texts",
    "implementation = Implementation('x', {'gather': f}, one(('gather',), lambda c: c.n, 'a', 'b'))": (
        "cannot be asked about a case: AttributeError"
    ),
    "implementation = Implementation('x', {'gather': f}, promises={})": "promises must be an instance of Promises",
    "implementation = Implementation('x', {'gather': f}, notes='a')": "notes must be a tuple",
    "implementation = Implementation('x', {'gather': f}, forward=1)": "forward must be a function",
}
"""Texts of a module behind --impl module:wrong -> what names the mistake."""

BEGINNING = """
from indexfuzz import Clause, Clauses, Implementation

def f(**rest):
    pass

def one(*clause):
    return Clauses((Clause(*clause),))

"""
"""What stands before those of MODULES that make an Implementation."""

SETTINGS = {
    "[tool.indexfuzz": "pyproject.toml cannot be read",
    "[tool]\nindexfuzz = 1": "tool.indexfuzz must be a table",
    "[tool.indexfuzz]\nimlp = 'x'": "has no setting 'imlp'; did you mean 'impl'?",
    "[tool.indexfuzz]\nimpl = 1": "tool.indexfuzz.impl",
    "[tool.indexfuzz]\nimpl = ''": "tool.indexfuzz.impl",
    "[tool.indexfuzz]\nimpl = 'nix'": "no implementation 'nix'",
    "[tool.indexfuzz]\ndevice = 'abacus'": "no device 'abacus'",
    "[tool.indexfuzz]\ncorpus = ['a']": "tool.indexfuzz.corpus",
    "[tool.indexfuzz]\ncorpus = 'a-file'": "a-file",
    "[tool.indexfuzz]\ntimeout = 0": "tool.indexfuzz.timeout",
    "[tool.indexfuzz]\ntimeout = '9'": "tool.indexfuzz.timeout",
    "[tool.indexfuzz]\nvalues = 'ties'": "tool.indexfuzz.values",
    "[tool.indexfuzz]\nvalues = ['tie']": "tool.indexfuzz.values",
    "[tool.indexfuzz]\nseconds = 3": "has no setting 'seconds'",
    "[tool.indexfuzz.run]\ncases = 3": "has no setting 'run'",
}


@pytest.fixture
def complain(indexfuzz, monkeypatch, tmp_path):
    """Run a wrong command line in a folder with a little of everything; what it says, once it has exited with 2."""
    monkeypatch.syspath_prepend(tmp_path)
    entry = Entry(case=CASE, finding=Record.of(Finding("gather", "code-mismatch", "k_scale", "wrong")))
    guard = Entry(case=CASE, status="guard")
    for path, text in {
        FILE: entry.dumps(),
        f"guard/indexer/{CASE.id}.json": guard.dumps(),
        f"two/gather/{CASE.id}.json": entry.dumps(),
        f"two/indexer/{CASE.id}.json": guard.dumps(),
        "a-file": "",
        "broken.whl": "PK",
        "empty/.keep": "",
        "right.py": "",
    }.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)

    def run(*words: str) -> str:
        code, out, err = indexfuzz(*words)
        assert "Traceback" not in out + err
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert "internal" not in err
        return err

    return run


def test_the_table_is_long():
    assert len(PARSING) + len(OPTIONS) + len(FILES) + len(MODULES) + len(SETTINGS) + 2 * len(COMMANDS) >= 220


@pytest.mark.parametrize("words", PARSING)
def test_what_cannot_be_parsed(complain, words):
    said = complain(*words.split())
    assert PARSING[words] in said
    assert "--help`" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_that_there_is_not(complain, command):
    assert complain(command, "--nix").startswith("error: No such option: --nix")


@pytest.mark.parametrize("words", OPTIONS)
def test_what_contradicts_itself_or_is_not_there(complain, words):
    assert OPTIONS[words] in complain(*words.split())


@pytest.mark.parametrize("text", FILES, ids=range(len(FILES)))
def test_a_file_that_is_no_entry(complain, text):
    Path("file.json").write_text(text, "utf-8")
    said = complain("show", "file.json")
    assert said.startswith("error: file.json: ")
    assert FILES[text] in said


def test_a_file_that_cannot_be_read(complain):
    Path("file.json").symlink_to("file.json")
    assert "file.json" in complain("show", "file.json")
    Path("file.json").unlink()
    Path("file.json").write_bytes(b"\xff\xfe\x80")
    assert "file.json" in complain("show", "file.json")
    Path("file.json").write_text(" " * (5 << 20))
    assert "file.json" in complain("show", "file.json")


def test_a_file_named_like_another_case(complain):
    Path("corpus/gather/0123456789abcdef.json").write_text(Path(FILE).read_text())
    assert "0123456789abcdef" in complain("show", "corpus/gather/0123456789abcdef.json")


@pytest.mark.parametrize("text", MODULES, ids=range(len(MODULES)))
def test_a_module_that_is_no_implementation(complain, monkeypatch, text):
    monkeypatch.delitem(sys.modules, "wrong", raising=False)
    Path("wrong.py").write_text((BEGINNING if "Implementation" in text else "") + text)
    said = complain("impls", "module:wrong")
    assert said.startswith("error: module:wrong")
    assert MODULES[text] in said


@pytest.mark.parametrize("text", SETTINGS, ids=range(len(SETTINGS)))
def test_settings_that_are_none(complain, text):
    Path("pyproject.toml").write_text(text)
    assert SETTINGS[text] in complain("run", "--cases", "1", "--no-isolate")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_reads_the_settings(complain, command):
    Path("pyproject.toml").write_text("[tool.indexfuzz]\nnix = 1\n")
    assert "has no setting 'nix'" in complain(command)


def test_a_folder_that_is_gone(complain, tmp_path):
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    try:
        assert "the current folder does not exist any more" in complain("run", "--cases", "1")
    finally:
        os.chdir(tmp_path)


def test_scripts_get_the_same_as_json(indexfuzz):
    _, out, err = indexfuzz("show", "nix", "--json")
    assert json.loads(out) == {"error": err.removeprefix("error: ").strip(), "exit_code": 2}
