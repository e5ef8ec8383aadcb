"""The command line as its tests call it."""

import sys

import pytest

from indexfuzz import __main__ as cli


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run `indexfuzz` with some words in a folder of its own; -> (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["indexfuzz", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, *capsys.readouterr()

    return run
