"""Damaged and hostile files, a sample of what hostile_files_everywhere.py tries: one line each, and nothing else."""

import os
import sys
from pathlib import Path

import pytest

from indexfuzz.corpus.entry import CorpusError
from indexfuzz.corpus.store import load
from tests.cli import hostile_files_everywhere
from tests.cli.hostile_files_everywhere import everything_wrong
from tests.corpus.hostile_files import DAMAGES, good, hostile_file


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    monkeypatch.setenv("TOY", os.environ.get("TOY", "right"))
    monkeypatch.setattr(sys, "argv", [])


def test_each_costs_one_line_wherever_it_lies(elsewhere):
    assert everything_wrong(60, seed=1) == []


def test_a_file_that_is_none_of_them_would_be_noticed(elsewhere, monkeypatch):
    def taken_for_good(_seed, _number):
        entry = good(10_000)
        return "good", entry.file, entry.dumps().encode()

    monkeypatch.setattr(hostile_files_everywhere, "hostile_file", taken_for_good)
    assert everything_wrong(1, seed=1)


def test_files_of_all_damages_are_refused_in_words_that_can_be_printed(tmp_path):
    kinds = set()
    for number in range(150):
        kind, name, content = hostile_file(2, number)
        kinds.add(kind)
        path = tmp_path / Path(name).name
        path.write_bytes(content)
        with pytest.raises(CorpusError) as error:
            load(path)
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 600
    assert kinds == set(DAMAGES)
    assert hostile_file(2, 7) == hostile_file(2, 7)
