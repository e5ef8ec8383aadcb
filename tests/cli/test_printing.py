"""What is printed reads well at 80 and at 40 columns, on a terminal, in a pipe, and where nobody listens."""

import io
import os
import subprocess
import sys

import pytest

from indexfuzz import __main__ as cli
from indexfuzz.cli import GROUPS
from indexfuzz.cli.common import console
from indexfuzz.cli.printing import WrappingConsole, wrap_line

COMMANDS = [command.__name__.replace("_", "-") for commands in GROUPS.values() for command in commands]


@pytest.fixture
def explained(capsys, monkeypatch):
    """The help of a command at a width."""

    def run(*words: str, columns: int) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "argv", ["indexfuzz", *words, "--help"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        return capsys.readouterr().out.splitlines()

    return run


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_help_keeps_to_the_width_and_words_stay_whole(explained, command, columns):
    lines = explained(*command, columns=columns)
    too_long = [line for line in lines if len(line) > min(columns, 100) and len(line.split()) > 1]
    assert [line for line in too_long if not line.strip().startswith(("indexfuzz ", "--"))] == []
    words = set(" ".join(explained(*command, columns=200)).split())
    assert set(" ".join(lines).split()) == words


def test_options_stand_in_groups(explained):
    lines = explained("run", columns=80)
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == [
        "Examples:",
        "What to test:",
        "In which process:",
        "Which cases:",
        "How long:",
        "Where findings are:",
        "Coverage:",
        "Other options:",
    ]
    assert lines.index("  --device lockstep[:sm90|:cdna3|:order]|interpreter|cuda") > lines.index("What to test:")


def test_the_settings_of_the_project_are_told_as_defaults(explained, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.indexfuzz]\nimpl = "module:mine"\nvalues = ["ties", "exact"]\n')
    text = " ".join(" ".join(explained("run", columns=100)).split())
    assert "[default: module:mine, of the project]" in text
    assert "[default: ties, exact, of the project]" in text


def test_commands_stand_in_groups(explained):
    lines = explained(columns=80)
    assert [heading for heading in GROUPS if f"{heading}:" in lines] == list(GROUPS)
    assert "  --install-completion" in lines


@pytest.mark.parametrize("width", [40, 80])
def test_lines_are_cut_between_words_with_their_indent(width):
    text = "  " + "a finding that has much to say about key_cache_of_the_other_layer[17, 3] " * 3
    first, *others = wrap_line(text, width).splitlines()
    assert all(len(line) <= width for line in (first, *others))
    assert first.startswith("  a")
    assert all(line.startswith("    ") and line[4] != " " for line in others)
    assert " ".join(line.strip() for line in (first, *others)) == " ".join(text.split())


def test_a_long_word_and_a_command_stay_whole():
    assert wrap_line(f"  {'x' * 90} y", 40) == f"  {'x' * 90}\n    y"
    out = io.StringIO()
    command = "  again: indexfuzz replay corpus/gather/0123456789abcdef.json --impl module:my_kernels"
    WrappingConsole(width=40, file=out).print(command)
    assert out.getvalue() == f"{command}\n"


def test_a_pipe_gets_lines_as_they_are(capsys):
    line = "  " + "word " * 100
    console().print(line)
    assert capsys.readouterr().out == f"{line}\n"


def run(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    indexfuzz = f"{sys.executable} -m indexfuzz"
    words = ["bash", "-c", command.replace("indexfuzz", indexfuzz)]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | environment)


class TestNobodyListens:
    def test_a_reader_that_leaves_is_no_error(self):
        done = run("indexfuzz faults | head -1; echo ${PIPESTATUS[0]}")
        assert (done.stdout.splitlines()[1:], done.stderr) == (["0"], "")

    def test_nor_is_a_closed_output(self):
        done = run("indexfuzz presets >&-; echo $?")
        assert (done.stdout, done.stderr) == ("0\n", "")

    def test_the_exit_code_stays_what_it_is(self):
        done = run("indexfuzz show nix --json | true; echo ${PIPESTATUS[0]}")
        assert done.stdout == "2\n"
