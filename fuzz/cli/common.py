"""What several commands share: where the corpus lies, what is under test, and how text is printed."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from indexfuzz.cli.printing import WrappingConsole
from indexfuzz.core.project import Project
from indexfuzz.core.setup import Setup, SetupError
from indexfuzz.core.signature import Signature
from indexfuzz.core.words import suggestion
from indexfuzz.corpus.entry import CorpusError, Entry
from indexfuzz.corpus.store import Corpus, is_entry, load
from indexfuzz.subjects.open import prepare
from indexfuzz.subjects.under_test import UnderTest, put_under_test

if TYPE_CHECKING:
    from indexfuzz.subjects.in_process import InProcess
    from indexfuzz.subjects.subject import Subject

NOTHING_NEW, FINDINGS, USAGE_ERROR, INTERNAL_ERROR = 0, 1, 2, 3


class InputError(Exception):
    """Something that the user gave cannot be used. One sentence."""


def each_known(option: str, words: list[str], choices: Iterable[str]) -> list[str]:
    """The words of a repeated option, which may also be separated by commas.

    Raises InputError for one that is no choice.
    """
    given = [word for text in words for word in text.split(",") if word]
    for word in given:
        if word not in choices:
            raise InputError(f"{option}: no {word!r}; {suggestion(word, choices)}")
    return given


def make_folder_of(file: Path) -> None:
    """Make the folder that a file is to be written to, where there is none. Raises OSError where that is impossible."""
    if not file.parent.exists():
        file.parent.mkdir(parents=True)


def default_corpus(faults: Iterable[str] = ()) -> Path:
    """Where the project's settings say that cases are kept; what planted bugs show is kept apart from that.

    Raises SetupError when the settings cannot be read.
    """
    return Project.here().corpus_for(faults)


def under_test(setup: Setup) -> "UnderTest[Subject]":
    """What the options name, in a process of its own where they say so.

    Raises SetupError.
    """
    _with_sanitizer(setup)
    if not setup.isolated:
        _with_interpreter(setup)
    target = prepare(setup)
    _set_threads()
    return target


def in_this_process(setup: Setup) -> "UnderTest[InProcess]":
    """What the options name, for commands that look into it.

    Raises SetupError.
    """
    setup = replace(setup, isolate=False)
    _with_interpreter(setup)
    target = put_under_test(setup)
    _set_threads()
    return target


def _with_interpreter(setup: Setup) -> None:
    """Start again where Triton's interpreter is wanted in this process: it has to be so when Triton is imported."""
    if setup.device == "interpreter" and os.environ.get("TRITON_INTERPRET") != "1":
        sys.stdout.flush()
        environment = os.environ | {"TRITON_INTERPRET": "1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - ourselves


def _with_sanitizer(setup: Setup) -> None:
    """Do all of this in a process under the tool of --sanitize, and end as that does."""
    from indexfuzz.devices.base import DeviceError
    from indexfuzz.devices.sanitizer_marks import TOOLS
    from indexfuzz.devices.sanitizing import LOG, find_tool, sanitized

    if setup.sanitize is None or LOG in os.environ:
        return
    each_known("--sanitize", [setup.sanitize], TOOLS)
    if setup.device != "cuda":
        raise InputError(f"--sanitize looks at kernels on a GPU, not on {setup.device}; use it with --device cuda")
    try:
        tool = find_tool()
    except DeviceError as error:
        raise SetupError(str(error)) from error
    with tempfile.TemporaryDirectory(prefix="indexfuzz-") as folder:
        words = [sys.executable, *sys.orig_argv[1:]]
        command, variables = sanitized(tool, setup.sanitize, words, Path(folder) / "report.txt")
        sys.stdout.flush()
        ended = subprocess.run(command, env=os.environ | variables, check=False)  # noqa: S603 - ourselves
    raise typer.Exit(ended.returncode)


def _set_threads() -> None:
    import torch

    torch.set_num_threads(1)


def find(name: str, corpus: Path | None) -> list[Path]:
    """The files that a FILE, ID or DIR stands for.

    Raises InputError when there are none.
    """
    path = Path(name)
    if path.is_dir():
        found = Corpus(path).files() or sorted(file for file in path.glob("*.json") if is_entry(file))
        if not found:
            raise InputError(f"{name}: no corpus files (<stage>/<id>.json) in this folder")
        return found
    if path.exists():
        return [path]
    where = corpus or default_corpus()
    found = [file for file in Corpus(where).files() if file.stem.startswith(name)] if name else []
    if not found:
        raise InputError(f"{name}: no such file or folder, and no case in {where} has an id that starts so")
    return found


def find_one(name: str, corpus: Path | None = None) -> tuple[Path, Entry]:
    """The one entry that a FILE or ID stands for.

    Raises InputError when there is none or more than one, CorpusError when it cannot be read.
    """
    found = find(name, corpus)
    if len(found) > 1:
        raise InputError(f"{name} stands for {len(found)} files, this command takes one; the first is {found[0]}")
    return found[0], load(found[0])


def with_finding(path: Path, entry: Entry) -> Signature:
    """The signature of an entry.

    Raises CorpusError when it has none.
    """
    if entry.finding is None:
        raise CorpusError(f"{path}: finding: this case never showed one")
    return entry.finding.signature


def console(*, err: bool = False) -> WrappingConsole:
    """A console that prints what it is given, wrapped on a terminal."""
    return WrappingConsole(err=err)
