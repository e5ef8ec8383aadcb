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
from indexfuzz.corpus.entry import CorpusError, Entry
from indexfuzz.corpus.store import load

FOLDER = Path(".indexfuzz")


class Journal:
    """Keeps the case in flight of this process below a folder; a context that forgets it at its end.

    `command` gives the command line that replays a file. An exception that is not an interrupt leaves the file behind.
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
        if kind is None or not issubclass(kind, Exception):
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


def left_behind(folder: Path = FOLDER) -> list[str]:
    """A line for each case that was in flight when another run died; it is told once, and its file kept in `died`."""
    lines = []
    for path in sorted((folder / "in-flight").glob("*.json")):
        if path.stem.isdecimal() and not _is_alive(int(path.stem)):
            try:
                entry = load(path)
            except CorpusError:
                path.unlink(missing_ok=True)
                continue
            kept = folder / "died" / f"{entry.case.id}.json"
            kept.parent.mkdir(exist_ok=True)
            path.replace(kept)
            lines.append(f"case {entry.case.id}: {entry.note}")
    return lines


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
