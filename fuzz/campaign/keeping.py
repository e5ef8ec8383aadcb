"""Keep what a campaign finds: on disk the moment it is seen, replaced as its case becomes smaller."""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import reduce
from pathlib import Path

from indexfuzz.campaign.doubts import describe_doubt
from indexfuzz.campaign.events import Event, Explained, Found, Seen, Smaller
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.signature import Signature
from indexfuzz.corpus.entry import Entry
from indexfuzz.corpus.store import Corpus, merge, write

EntryOf = Callable[[Case, Finding], Entry]


class Keeper:
    """Listens to a campaign and writes its findings into a folder.

    `saved` maps the signatures found, and those that were put down to another, to their files. Where the folder cannot
    be written to any more, the rest goes to a new folder below the temporary one, and `notice` hears where.
    """

    def __init__(self, entry_of: EntryOf, folder: Path, notice: Callable[[str], None]) -> None:
        self._entry_of = entry_of
        self._folder = folder
        self._notice = notice
        self._ours: set[Path] = set()
        self._entries: dict[Signature, Entry] = {}
        self.saved: dict[Signature, Path] = {}

    def hear(self, event: Event) -> None:
        """Write, replace or remove a file. Until a case has shown its finding alone, it is unconfirmed."""
        if isinstance(event, Seen | Smaller):
            entry = self._entry_of(event.case, event.finding).model_copy(update={"status": "unconfirmed"})
            self._keep(event.finding.signature, entry)
        elif isinstance(event, Explained):
            entry = self._entry_of(event.case, event.finding)
            status = "unconfirmed" if entry.status == "open" else entry.status
            self._keep(event.finding.signature, entry.model_copy(update={"status": status, "cause": event.by}))
        elif isinstance(event, Found):
            entry = self._entry_of(event.case, event.finding)
            if event.doubt:
                note = f"{entry.note} {describe_doubt(event.doubt)}".strip()
                entry = entry.model_copy(update={"note": note, "status": "unconfirmed"})
            if event.seen_as is not None:
                self._forget(event.seen_as)
            self._keep(event.finding.signature, entry)

    def _keep(self, signature: Signature, entry: Entry) -> None:
        before = self.saved.get(signature)
        self._entries[signature] = entry
        self.saved[signature] = self._write(signature, entry)
        if before is not None and before != self.saved[signature]:
            self._leave(before)

    def _write(self, signature: Signature, entry: Entry) -> Path:
        """Write an entry; a file that only this campaign has written is replaced, another one is added to."""
        path = self._folder / entry.file
        is_new = not path.exists()
        try:
            if path in self._ours:
                write(self._joined([*self._at(path, but=signature), entry]), path)
            else:
                Corpus(self._folder).save(entry)
        except OSError as error:
            lost, self._folder = self._folder, Path(tempfile.mkdtemp(prefix="indexfuzz-findings-"))
            self._notice(f"cannot write to {lost}: {error.strerror}; findings go to {self._folder} from now on")
            path = Corpus(self._folder).save(entry)
        if is_new:
            self._ours.add(path)
        return path

    def _at(self, path: Path, *, but: Signature | None = None) -> list[Entry]:
        """What a file of this campaign says, of each signature whose case it holds."""
        return [self._entries[each] for each, place in self.saved.items() if place == path and each != but]

    @staticmethod
    def _joined(entries: list[Entry]) -> Entry:
        """One entry of several about the same case, what stands for itself and is confirmed first."""
        return reduce(merge, sorted(entries, key=lambda entry: (entry.cause is not None, entry.status != "open")))

    def _forget(self, signature: Signature) -> None:
        if (path := self.saved.pop(signature, None)) is not None:
            self._leave(path)

    def _leave(self, path: Path) -> None:
        """Remove a file that nobody else has written; where another signature needs it, what does not is left out."""
        if path not in self._ours:
            return
        if rest := self._at(path):
            with suppress(OSError):  # then it says more than it needs to
                write(self._joined(rest), path)
        else:
            path.unlink(missing_ok=True)
            self._ours.discard(path)


def probe(folder: Path) -> None:
    """Write to a folder, or to the nearest one above it that is there: better now than when something was found.

    Makes no folder: another run that is about to write there must not see one come and go. Raises OSError where
    writing does not work.
    """
    with tempfile.TemporaryFile(dir=_nearest(folder)):
        pass


def _nearest(folder: Path) -> Path:
    try:
        folder.stat()
    except FileNotFoundError:
        return _nearest(folder.parent)
    return folder
