"""Pieces of messages."""

from pathlib import Path

import pytest

from indexfuzz.core.words import location_from_here, path_from_here, suggestion


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("corpus/gather/a.json", "corpus/gather/a.json"),
        ("{here}/corpus/a.json", "corpus/a.json"),
        ("{here}/../other/a.json", "../other/a.json"),
        ("/x", "/x"),
    ],
)
def test_paths_are_shown_as_they_are_typed_here(monkeypatch, tmp_path, path, shown):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert path_from_here(Path(path.format(here=here))) == Path(shown)


def test_so_are_the_places_of_findings(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert location_from_here(f"{tmp_path}/kernels/gather.py:12") == "kernels/gather.py:12"
    assert location_from_here("kernels/gather.py:12") == "kernels/gather.py:12"
    assert location_from_here("") == ""


def test_what_looks_alike_is_suggested_else_everything():
    assert suggestion("gathr", ("rope", "gather")) == "did you mean 'gather'?"
    assert suggestion("x", ("rope", "gather")) == "choose from gather, rope"
    assert suggestion("x", ("rope", "gather"), "indexfuzz impls") == "`indexfuzz impls` lists them"
    assert suggestion("gathr", ("rope", "gather"), "indexfuzz impls") == "did you mean 'gather'?"
