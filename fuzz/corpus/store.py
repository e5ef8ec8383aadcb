"""The corpus: a folder with one JSON file per case worth keeping, `<stage>/<id>.json`.

The name of a file is the id of its case, so whoever finds the same case writes the same file, and merging two corpora
is copying. Files come from strangers too: they are read with limits, checked field by field, and a broken one costs
one clear error and nothing else.
"""

import json
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from indexfuzz.core.part import first_error
from indexfuzz.core.signature import Signature
from indexfuzz.core.stage_names import OPERATION_NAMES
from indexfuzz.corpus.entry import ID, SCHEMA, WHOLE, CorpusError, Entry

MAX_BYTES = 4 << 20
"""A corpus file is a few kilobytes; nothing larger than this is read."""

MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Schema version v -> a pure function that turns the data of a file of version v into that of v + 1."""


def load(path: Path) -> Entry:
    """Read one file. A file named like an id must hold the case of that id.

    Raises CorpusError that names the file, the field and what is wrong.
    """
    try:
        content = _read(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CorpusError(f"{path}: {reason}") from None
    return parse(content, path)


def parse(content: bytes, path: Path) -> Entry:
    """What a file holds, as `load` reads it.

    Raises CorpusError that names the file, the field and what is wrong.
    """
    try:
        data = _migrated(_decode(content))
        entry = Entry.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise CorpusError(f"{path}: {first_error(error)}") from None
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{path}: {error}") from None
    if ID.fullmatch(path.stem) and path.stem != entry.case.id:
        raise CorpusError(f"{path}: case: it has the id {entry.case.id}, the file name says {path.stem}")
    return entry


def _read(path: Path) -> bytes:
    """The content of a regular file, as far as it may be read."""
    if not path.is_file():
        raise ValueError("no such file" if not path.exists() else "not a regular file")
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _decode(content: bytes) -> Any:
    """Decoded JSON of limited size."""
    if len(content) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
    try:
        return json.loads(content.decode(), object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except UnicodeDecodeError:
        raise ValueError("not JSON: not UTF-8 text") from None
    except RecursionError:
        raise ValueError("not JSON: nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Of a key that is there twice, readers of JSON disagree on which value counts."""
    data = dict(pairs)
    if len(data) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"not JSON that can be trusted: the key {twice!r} is there more than once in one object")
    return data


def _migrated(data: Any) -> dict[str, Any]:
    """The fields of an entry of the present schema."""
    if not isinstance(data, dict):
        raise ValueError(f"must hold a JSON object, not a {type(data).__name__}")  # noqa: TRY004 - bad data, not a bug
    version = data.get("schema")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"schema: must be a version number, such as {SCHEMA}")
    if version > SCHEMA:
        raise ValueError(f"schema: version {version} is newer than {SCHEMA}, the newest that this IndexFuzz reads")
    for old in range(version, SCHEMA):
        data = MIGRATIONS[old](data)
    return {name: value for name, value in data.items() if name != "schema"}


def merge(present: Entry, new: Entry) -> Entry:
    """The entry present, and what was seen of the same case since, which may confirm it.

    It stays put down to a cause where both are, or where what is new has the last word on what was never confirmed.
    What stands for itself takes the place of what does not.
    """
    places = {sighting.place for sighting in present.seen}
    seen, status, cause = new.seen, present.status, present.cause
    if present.finding and new.finding and new.finding.signature != present.finding.signature:
        if present.cause and not new.cause and present.status == "unconfirmed":
            return merge(
                new.model_copy(update={"note": new.note or present.note, "link": new.link or present.link}), present
            )
        changed = new.finding.signature
        seen = tuple(s.model_copy(update={"signature": s.signature or changed}) for s in seen)
    elif present.status == "unconfirmed":
        status, cause = new.status, new.cause
    elif not new.cause:
        cause = None
    return present.model_copy(
        update={"status": status, "cause": cause, "seen": (*present.seen, *(s for s in seen if s.place not in places))}
    )


def write(entry: Entry, path: Path) -> None:
    """Write an entry to a path of the caller's choice.

    Raises OSError when it cannot.
    """
    write_text(entry.dumps(), path)


def write_text(text: str, path: Path) -> None:
    """Write a file that matters: at any moment, the path holds all of it or what was there before.

    Raises OSError when it cannot.
    """
    with replacing(path) as file:
        file.write(text)


def write_bytes(data: bytes, path: Path) -> None:
    """As `write_text`, for a file that is no text."""
    with replacing(path) as file:
        file.buffer.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A file to write to, which takes the place of the path at the end of the block; what is raised there leaves it.

    Raises OSError when it cannot be written.
    """
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_entry(path: Path) -> bool:
    """Whether a path is that of a corpus file: .../corpus/<stage>/<id>.json. Nothing is read."""
    return path.suffix == ".json" and bool(ID.fullmatch(path.stem)) and path.parent.name in {*OPERATION_NAMES, WHOLE}


def open_signatures(entries: Iterable[Entry], implementation: str) -> frozenset[Signature]:
    """The signatures of the open ones among some entries that were seen on the implementation of that name.

    With them come those that were put down to one that is not mended; once that is, they stand for themselves.
    """
    shown = [(entry, entry.signatures(implementation)) for entry in entries if entry.status in ("open", "unconfirmed")]
    known = [signatures for entry, signatures in shown if entry.status == "open" and not entry.cause]
    there = frozenset[Signature]().union(*(signatures for entry, signatures in shown if not entry.cause))
    symptoms = [(entry.cause, signatures) for entry, signatures in shown if entry.cause]
    while explained := [signatures for cause, signatures in symptoms if cause in there]:
        symptoms = [(cause, signatures) for cause, signatures in symptoms if cause not in there]
        known += explained
        there = there.union(*explained)
    return frozenset[Signature]().union(*known)


@dataclass(frozen=True)
class Corpus:
    """The kept cases below a folder, which need not exist yet."""

    folder: Path

    def files(self) -> list[Path]:
        """Its files, in order of stage and id."""
        return sorted(path for path in self.folder.glob("*/*.json") if is_entry(path))

    def entries(self) -> Iterator[tuple[Path, Entry | CorpusError]]:
        """Every file with what it holds, or why it cannot be used."""
        for path in self.files():
            try:
                yield path, load(path)
            except CorpusError as error:
                yield path, error

    def known(self, implementation: str) -> frozenset[Signature]:
        """The signatures of all open entries that were seen on the implementation of that name."""
        return open_signatures((e for _, e in self.entries() if isinstance(e, Entry)), implementation)

    def save(self, entry: Entry) -> Path:
        """Write an entry at its place, atomically; return the path.

        Where the same case lies there already, its finding, status and note stay, and what was seen is merged. A file
        there that cannot be read is set aside as `<name>.damaged`. Raises OSError when the folder cannot be written to.
        """
        path = self.folder / entry.file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            try:
                present = load(path)
            except CorpusError:
                path.rename(path.with_name(f"{path.name}.damaged"))
            else:
                entry = merge(present, entry)
                if entry == present:
                    return path
        write(entry, path)
        return path
