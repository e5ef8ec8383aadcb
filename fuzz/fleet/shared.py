"""The folder that all machines of a fleet share: any URL that fsspec knows, such as s3://bucket/nightly.

What lies there may come from strangers: a file is taken where its name is one that a fleet writes, entries are read as
those of any corpus, with limits and field by field. Files appear whole or not at all: they are written under another
name first, and moved (object stores show an object once all of it is there).
"""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec

from indexfuzz.core.words import printable
from indexfuzz.corpus.entry import CorpusError, Entry
from indexfuzz.corpus.store import MAX_BYTES, is_entry, parse

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}(/[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}){0,7}")
"""Names below the folder: no part begins with a dot."""


class SharedError(Exception):
    """The shared folder cannot be used. One sentence."""


class Shared:
    """The folder behind a URL. `url` is the same, for machines that have another current folder."""

    def __init__(self, url: str) -> None:
        """Raises SharedError where nothing is known of such URLs here."""
        with _telling(url):
            self._files, root = fsspec.core.url_to_fs(url)
            self._root = str(root).rstrip("/")
            self.url = str(self._files.unstrip_protocol(self._root)).removeprefix("file://")

    def probe(self) -> None:
        """Write a file and take it back.

        Raises SharedError where that does not work.
        """
        name = f"probe-{uuid.uuid4().hex}"
        self.write(name, b"")
        self.remove(name)

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole. Raises SharedError."""
        with self._replacing(name) as temporary:
            self._files.pipe_file(temporary, content)

    def upload(self, path: Path, name: str) -> None:
        """Copy a file of this machine there. Raises SharedError."""
        with self._replacing(name) as temporary:
            self._files.put_file(str(path), temporary)

    def download(self, name: str, path: Path) -> None:
        """Copy a file from there to this machine. Raises SharedError."""
        with _telling(f"{self.url}/{name}"):
            self._files.get_file(self._path(name), str(path))

    def remove(self, name: str) -> None:
        """Remove a file, where it is there. Raises SharedError."""
        with _telling(f"{self.url}/{name}"), suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def set_aside(self, name: str) -> None:
        """Give a file that cannot be read a name that nobody reads. Raises SharedError."""
        with _telling(f"{self.url}/{name}"):
            self._files.mv(self._path(name), f"{self._path(name)}.damaged")

    def names(self, folder: str) -> list[str]:
        """The names of all files below a folder, at any depth, that a fleet may have written. Raises SharedError."""
        return sorted(self._sizes(folder))

    def entries(self, folder: str) -> Iterator[tuple[str, Entry | CorpusError]]:
        """Every kept case below a folder, by its name, or why it cannot be used. Raises SharedError."""
        for name, size in sorted(self._sizes(folder).items()):
            if not is_entry(Path(name)):
                continue
            try:
                yield name, self._entry(name, size)
            except CorpusError as error:
                yield name, error

    def _sizes(self, folder: str) -> dict[str, int]:
        """Name -> size in bytes."""
        with _telling(f"{self.url}/{folder}"), suppress(FileNotFoundError):
            self._files.invalidate_cache()
            found = self._files.find(self._path(folder), detail=True)
            start = f"{self._root}/"
            below = {
                str(path).removeprefix(start): facts for path, facts in found.items() if str(path).startswith(start)
            }
            return {name: int(facts["size"] or 0) for name, facts in below.items() if NAME.fullmatch(name)}
        return {}

    def _entry(self, name: str, size: int) -> Entry:
        """Raises CorpusError, also where the file cannot be read."""
        if size > MAX_BYTES:
            raise CorpusError(f"{name}: larger than {MAX_BYTES >> 20} MiB")
        try:
            with _telling(name):
                content = bytes(self._files.cat_file(self._path(name)))
        except SharedError as error:
            raise CorpusError(str(error)) from None
        return parse(content, Path(name))

    def _path(self, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a file below a shared folder")
        return f"{self._root}/{name}"

    @contextmanager
    def _replacing(self, name: str) -> Iterator[str]:
        """A path to write to, which takes the place of a file at the end of the block."""
        path = self._path(name)
        folder, _, last = path.rpartition("/")
        temporary = f"{folder}/.{last}.{uuid.uuid4().hex}.tmp"
        with _telling(f"{self.url}/{name}"):
            self._files.makedirs(folder, exist_ok=True)
            try:
                yield temporary
                self._files.mv(temporary, path)
            except BaseException:
                with suppress(Exception):
                    self._files.rm_file(temporary)
                raise


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """Tell in one sentence of whatever a file system raises: each has errors of its own."""
    try:
        yield
    except Exception as error:
        reason = printable(str(getattr(error, "strerror", "") or error or type(error).__name__))
        raise SharedError(f"{what}: {reason}") from error
