import io
from pathlib import Path

import pytest

from indexfuzz.report.github import MOST_ANNOTATIONS, Shown, annotations, publish, summarise

HERE = Shown("rope/race/q", "two lanes, one byte", "kernels/rope.py:33", "corpus/rope/x.json", "indexfuzz replay x")
HOSTILE = Shown("gather/crash/A,B: C", "100% wrong\n::error::fake <b>", "", "x.json", "run `this`")


def test_a_finding_is_shown_at_the_line_of_the_kernel(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("kernels").mkdir()
    Path("kernels/rope.py").write_text("")
    here = Shown(HERE.signature, HERE.detail, f"{tmp_path}/kernels/rope.py:33", HERE.file, HERE.again)
    expected = "::error file=kernels/rope.py,line=33,title=rope/race/q::two lanes, one byte%0Aagain: indexfuzz replay x"
    assert list(annotations([here])) == list(annotations([HERE])) == [expected]
    elsewhere = Shown(HERE.signature, HERE.detail, f"{tmp_path}/kernels/gone.py:1", HERE.file, HERE.again)
    assert next(annotations([elsewhere])).startswith("::error title=rope/race/q::")


def test_nothing_that_a_kernel_says_is_a_command_or_markup():
    (line,) = annotations([HOSTILE])
    assert line.startswith("::error title=gather/crash/A%2CB%3A C::100%25 wrong%0A::error")
    assert "\n" not in line
    text = summarise("a*b", [HOSTILE])
    assert text.startswith("### a\\*b\n")
    assert "\\<b\\>" in text
    assert "`` run `this` ``" in text
    assert "\n::error" not in text


def test_no_more_than_github_shows_and_how_many_there_are():
    lines = list(annotations([HERE] * 25))
    assert [line[:7] for line in lines] == ["::error"] * MOST_ANNOTATIONS + ["::notic"]
    assert lines[-1].endswith("::15 more findings in the summary of the job")
    assert list(annotations([HERE] * 11))[-1].endswith("::1 more finding in the summary of the job")
    assert len(list(annotations([HERE] * 10))) == 10
    assert summarise("x", [HERE] * 25).count("kept as") == 25


def test_only_where_github_runs_it(tmp_path):
    stream, summary = io.StringIO(), tmp_path / "summary.md"
    publish("x", [HERE], {"GITHUB_STEP_SUMMARY": str(summary)}, stream)
    assert (stream.getvalue(), summary.exists()) == ("", False)
    environment = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    publish("first", [HERE], environment, stream)
    publish("second", [], environment, stream)
    assert stream.getvalue().count("::error") == 1
    assert [line for line in summary.read_text().splitlines() if line.startswith("#")] == ["### first", "### second"]
    assert "Nothing new." in summary.read_text()


@pytest.mark.parametrize("path", ["", "missing/summary.md"])
def test_a_summary_that_cannot_be_written_is_none(tmp_path, path):
    stream = io.StringIO()
    where = str(tmp_path / path) if path else ""
    publish("x", [], {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": where}, stream)
    assert stream.getvalue() == ("::warning::cannot write the job summary: No such file or directory\n" if path else "")
    assert not Path(where or "nowhere").is_file()
