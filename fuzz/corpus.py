"""The corpus: one JSON file per case worth keeping, `corpus/<stage>/<id>.json`.

The name of a file is the id of its case, so whoever finds the same case writes the same file, and merging two corpora
is copying. Files come from strangers too: they are read with limits, checked field by field, and a broken one costs
one clear error and nothing else.
"""

import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from indexfuzz.case import Case, Part, first_error
from indexfuzz.finding import BEYOND, Finding

SCHEMA = 1
MAX_BYTES = 4 << 20
"""A corpus file is a few kilobytes; nothing larger than this is read."""

STAGES = frozenset({"rope", "q_quant", "k_quant_cache", "gather", "prefill_logits", "paged_logits", "topk"})
"""The only folders that a corpus has, besides WHOLE."""

WHOLE = "indexer"
"""The folder of interesting cases that never showed a finding of some stage."""

MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Schema version v -> a pure function that turns the data of a file of version v into that of v + 1."""

_ID = re.compile(r"[0-9a-f]{16}")
_MAX_DETAIL = 4000

Text = Annotated[str, Field(max_length=_MAX_DETAIL, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f\x80-\x9f]*$")]
"""Free text, without the control characters that would let a file paint on the reader's terminal."""

Signature = Annotated[Text, Field(max_length=300, pattern=r"^[a-z0-9_]+(/[^/\n\t]+)+$")]


class CorpusError(Exception):
    """A corpus file that cannot be used: "path: field: what is wrong"."""


class Record(Part):
    """What a case showed: the part of a Finding that is worth keeping."""

    signature: Signature
    detail: Text
    index: tuple[int, ...] = ()
    got: Text = ""
    want: Text = ""
    tier: Text = ""
    location: Text = ""
    beyond: Text = ""
    """The clause of the contract that the case breaks; empty within the contract."""

    @field_validator("signature")
    @classmethod
    def _stage_exists(cls, signature: str) -> str:
        if stage_of(signature) not in STAGES:
            raise ValueError(f"{stage_of(signature)!r} is no stage; the stages are {', '.join(sorted(STAGES))}")
        return signature

    @model_validator(mode="after")
    def _signature_says_so_too(self) -> Self:
        if self.signature.endswith(f"/{BEYOND}") != bool(self.beyond):
            raise ValueError(f"beyond must name the broken clause where the signature ends in {BEYOND}, and only there")
        return self

    @classmethod
    def of(cls, finding: Finding) -> Self:
        """Take over a finding; of its location, only the last folder and file."""
        location = "/".join(Path(finding.location).parts[-2:])
        texts = {"detail": finding.detail, "got": finding.got, "want": finding.want, "location": location,
                 "beyond": finding.beyond}  # fmt: skip
        printable = {name: _printable(text) for name, text in texts.items()}
        return cls(signature=_printable(finding.signature), index=finding.index, tier=finding.tier, **printable)


class Sighting(Part):
    """Where a case failed, and when. `signature` is given where it is another one than the entry's."""

    implementation: Text
    device: Text
    triton: Text
    torch: Text
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    signature: Signature | None = None

    @property
    def place(self) -> tuple[str | None, ...]:
        """What makes two sightings the same: all but the date."""
        return (self.implementation, self.device, self.triton, self.torch, self.signature)


class Entry(Part):
    """One file of the corpus.

    `open`: fails on the implementations in `seen`, nobody has mended it. `fixed`: did once, no longer. `guard`: an
    interesting case that must pass.
    """

    case: Case
    finding: Record | None = None
    status: Literal["open", "fixed", "guard"] = "open"
    note: Text = ""
    seen: tuple[Sighting, ...] = ()

    @model_validator(mode="after")
    def _failure_has_a_finding(self) -> Self:
        if self.finding is None and self.status != "guard":
            raise ValueError(f"status {self.status} needs a finding; only a guard can do without")
        return self

    @property
    def stage(self) -> str:
        """The folder that the entry belongs into."""
        return stage_of(self.finding.signature) if self.finding else WHOLE

    @property
    def file(self) -> str:
        """Path inside a corpus: <stage>/<id>.json."""
        return f"{self.stage}/{self.case.id}.json"

    def signatures(self, implementation: str) -> frozenset[str]:
        """What the case was seen to show on the implementation of that name."""
        if self.finding is None:
            return frozenset()
        return frozenset(s.signature or self.finding.signature for s in self.seen if s.implementation == implementation)

    def dumps(self) -> str:
        """The text of the file: JSON, a line for each part of the case."""
        data = self.model_dump(mode="json", exclude_defaults=True) | {"case": self.case.model_dump(mode="json")}
        parts = ",\n          ".join(f"{json.dumps(name)}: {json.dumps(part)}" for name, part in data["case"].items())
        lines = [f'"schema": {SCHEMA}', f'"case": {{{parts}}}']
        texts = ("finding", "status", "note")
        lines += [f'"{name}": {json.dumps(data.get(name, getattr(self, name)))}' for name in texts]
        seen = ",\n          ".join(json.dumps(sighting) for sighting in data.get("seen", ()))
        lines.append(f'"seen": [{seen}]')
        return "{" + ",\n ".join(lines) + "}\n"


def stage_of(signature: str) -> str:
    """The stage that a signature names."""
    return signature.split("/", 1)[0]


def _printable(text: str) -> str:
    """Text without control characters, cut to the length that a file may hold."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "?", text)[:_MAX_DETAIL]


def load(path: Path) -> Entry:
    """Read one file. A file named like an id must hold the case of that id.

    Raises CorpusError that names the file, the field and what is wrong.
    """
    try:
        data = _migrated(_read(path))
        entry = Entry.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise CorpusError(f"{path}: {first_error(error)}") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CorpusError(f"{path}: {reason}") from None
    if _ID.fullmatch(path.stem) and path.stem != entry.case.id:
        raise CorpusError(f"{path}: case: it has the id {entry.case.id}, the file name says {path.stem}")
    return entry


def _read(path: Path) -> Any:
    """Decoded JSON of a regular file of limited size."""
    if not path.is_file():
        raise ValueError("no such file" if not path.exists() else "not a regular file")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
    try:
        return json.loads(content.decode())
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except UnicodeDecodeError:
        raise ValueError("not JSON: not UTF-8 text") from None
    except RecursionError:
        raise ValueError("not JSON: nested too deeply") from None


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


def save(entry: Entry, corpus: Path) -> Path:
    """Write an entry at its place, atomically; return the path.

    Where the same case lies there already, its finding, status and note stay, and what was seen is merged. A file
    there that cannot be read is set aside as `<name>.damaged`. Raises OSError when the folder cannot be written to.
    """
    path = corpus / entry.file
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


def merge(present: Entry, new: Entry) -> Entry:
    """The entry present, and what was seen of the same case since."""
    places = {sighting.place for sighting in present.seen}
    seen = new.seen
    if present.finding and new.finding and new.finding.signature != present.finding.signature:
        changed = new.finding.signature
        seen = tuple(s.model_copy(update={"signature": s.signature or changed}) for s in seen)
    return present.model_copy(update={"seen": (*present.seen, *(s for s in seen if s.place not in places))})


def write(entry: Entry, path: Path) -> None:
    """Write an entry to a path of the caller's choice: at any moment, the path holds all of a file or none.

    Raises OSError when it cannot.
    """
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(entry.dumps())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_entry(path: Path) -> bool:
    """Whether a path is that of a corpus file: .../corpus/<stage>/<id>.json. Nothing is read."""
    return path.suffix == ".json" and bool(_ID.fullmatch(path.stem)) and path.parent.name in {*STAGES, WHOLE}


def files(corpus: Path) -> list[Path]:
    """The corpus files below a folder, in order of stage and id."""
    return sorted(path for path in corpus.glob("*/*.json") if is_entry(path))


def entries(corpus: Path) -> Iterator[tuple[Path, Entry | CorpusError]]:
    """Every file of a corpus with what it holds, or why it cannot be used."""
    for path in files(corpus):
        try:
            yield path, load(path)
        except CorpusError as error:
            yield path, error


def known_signatures(corpus: Path, implementation: str) -> frozenset[str]:
    """The signatures of all open entries that were seen on the implementation of that name."""
    known = (e for _, e in entries(corpus) if isinstance(e, Entry) and e.status == "open")
    return frozenset[str]().union(*(entry.signatures(implementation) for entry in known))
