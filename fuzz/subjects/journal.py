"""The case that is running now, on disk: when this process dies, the next run says which case was in flight.

`.indexfuzz/in-flight/<process>.json` is a corpus file without a finding, replaced before every case and removed at the
end. One that a dead process left behind becomes `.indexfuzz/died/<id>.json`, to be replayed.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from indexfuzz.core.case import Case
from indexfuzz.core.setup import SetupError
from indexfuzz.corpus.entry import CorpusError, Entry
from indexfuzz.corpus.store import load
from indexfuzz.implementations.base import ImplementationError

FOLDER = Path(".indexfuzz")

MOST_DIED = 20
"""Cases of dead runs that are kept; older ones make room."""


class Journal:
    """Keeps the case in flight of this process below a folder; a context that forgets it at its end.

    `command` gives the command line that replays a file. An error of IndexFuzz itself leaves the file behind.
    """

    def __init__(self, command: Callable[[Path], str], folder: Path = FOLDER) -> None:
        self._command = command
        self._folder = folder
        self._path = folder / "in-flight" / f"{os.getpid()}.json"

    def open(self) -> None:
        """Make the folder, with a file that keeps it out of git.

        Raises OSError when it cannot be written to.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        (self._folder / ".gitignore").write_text("*\n", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_ours = kind is not None and issubclass(kind, Exception)
        if not is_ours or isinstance(value, ImplementationError | SetupError):
            self._path.unlink(missing_ok=True)
        _tidy(self._folder)

    def note(self, case: Case) -> None:
        """Say that a case is about to run. The process may die, the machine should not: nothing is synced."""
        replay = self._command(self._folder / "died" / f"{case.id}.json")
        entry = Entry(case=case, status="guard", note=f"In flight when a run died. Again: {replay}")
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_text(entry.dumps(), encoding="utf-8")
        except FileNotFoundError:  # another run has tidied up
            self.open()
            temporary.write_text(entry.dumps(), encoding="utf-8")
        temporary.replace(self._path)


def bury_dead_runs(folder: Path = FOLDER) -> list[str]:
    """A line for each case that was in flight when another run died; it is told once, and its file kept in `died`."""
    lines = []
    for path in sorted((folder / "in-flight").glob("*.json")):
        if path.stem.isdecimal() and not _is_alive(int(path.stem)):
            entry = _bury(path)
            if entry is not None:
                lines.append(f"case {entry.case.id}: {entry.note}")
    return lines


def bury(process: int, folder: Path = FOLDER) -> str:
    """Keep the case that was in flight when a process died; the file, or nothing where there was no case."""
    entry = _bury(folder / "in-flight" / f"{process}.json")
    return str(_grave(entry, folder)) if entry else ""


def forget(process: int, folder: Path = FOLDER) -> None:
    """Forget the case in flight of a process that was ended on purpose."""
    for suffix in (".json", ".tmp"):
        (folder / "in-flight" / f"{process}{suffix}").unlink(missing_ok=True)


def _grave(entry: Entry, folder: Path) -> Path:
    return folder / "died" / f"{entry.case.id}.json"


def _bury(path: Path) -> Entry | None:
    """Move a file to where those of the dead are, of which the latest are kept; one that is damaged goes."""
    folder = path.parents[1]
    try:
        entry = load(path)
    except CorpusError:
        path.unlink(missing_ok=True)
        return None
    kept = _grave(entry, folder)
    kept.parent.mkdir(exist_ok=True)
    path.replace(kept)
    for old in sorted(kept.parent.glob("*.json"), key=lambda file: file.stat().st_mtime)[:-MOST_DIED]:
        old.unlink(missing_ok=True)
    return entry


def _tidy(folder: Path) -> None:
    """Remove the folders unless something is left in them."""
    with suppress(OSError):
        (folder / "in-flight").rmdir()
        if {path.name for path in folder.iterdir()} == {".gitignore"}:
            (folder / ".gitignore").unlink()
            folder.rmdir()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
