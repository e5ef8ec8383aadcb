"""The settings of a project: found from below, read strictly, the same in its JSON schema."""

import json
from pathlib import Path

import pytest

from indexfuzz.core.project import Project, Table
from indexfuzz.core.setup import SetupError

SCHEMA = Path(__file__).parents[2] / "docs" / "pyproject.schema.json"


@pytest.fixture
def project(monkeypatch, tmp_path):
    """Write a table, and look from a folder below it."""
    below = tmp_path / "src" / "kernels"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)

    def write(text: str) -> Project:
        (tmp_path / "pyproject.toml").write_text(text)
        return Project.here()

    return write


def test_without_a_file_all_is_in_the_current_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = Project.here()
    assert (found.file, found.root, found.corpus, found.impl) == (None, tmp_path, Path("corpus"), "builtin")


def test_a_file_without_the_table_changes_nothing(project):
    found = project('[project]\nname = "mine"\n[tool.ruff]\nline-length = 100\n')
    assert (found.file, found.corpus, found.table) == (None, Path("corpus"), Table())


def test_a_table_above_holds_and_its_paths_are_relative_to_it(project):
    found = project('[tool.indexfuzz]\nimpl = "vllm:wheels/v.whl"\ncorpus = "kept"\ntimeout = 3\nvalues = ["ties"]\n')
    assert found.corpus == Path("../../kept")
    assert found.impl == "vllm:../../wheels/v.whl"
    assert (found.table.timeout, found.table.values, found.table.device) == (3.0, ["ties"], "lockstep")
    assert project('[tool.indexfuzz]\nimpl = "module:mine"\n').impl == "module:mine"


def test_the_nearest_file_is_the_one(project, tmp_path):
    project('[tool.indexfuzz]\ncorpus = "outer"\n')
    (tmp_path / "src" / "pyproject.toml").write_text('[tool.indexfuzz]\ncorpus = "inner"\n')
    assert Project.here().corpus == Path("../inner")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('corpsu = "x"', "has no setting 'corpsu'; did you mean 'corpus'?"),
        ("timeout = 0", "timeout: Input should be greater than or equal to 0.1"),
        ('timeout = "long"', "timeout: Input should be a valid number"),
        ('values = ["norml"]', "values.0: Input should be 'normal'"),
        ('values = "normal"', "values: Input should be a valid list"),
        ("impl = 3", "impl: Input should be a valid string"),
        ('corpus = ""', "corpus: String should have at least 1 character"),
    ],
)
def test_what_is_wrong_is_named(project, text, complaint):
    with pytest.raises(SetupError, match=r"^\.\./\.\./pyproject\.toml: tool\.indexfuzz") as error:
        project(f"[tool.indexfuzz]\n{text}\n")
    assert complaint in str(error.value)


@pytest.mark.parametrize("text", ["[tool", "tool = 3", "[tool]\nindexfuzz = 3"])
def test_a_broken_file_is_one_sentence_or_no_settings(project, text):
    if text == "tool = 3":
        assert project(text).file is None
    else:
        with pytest.raises(SetupError, match=r"pyproject.toml"):
            project(text)


def test_the_schema_says_the_same():
    assert json.loads(SCHEMA.read_text()) == Table.model_json_schema()
