"""An entry of the corpus: a case, what it showed, where that was seen, and what became of it."""

import json
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PlainSerializer, PlainValidator, field_validator, model_validator

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.part import Part
from indexfuzz.core.signature import BEYOND, Signature
from indexfuzz.core.stage_names import require_stage

SCHEMA = 1

WHOLE = "indexer"
"""The folder of interesting cases that never showed a finding of some stage; all others are called as a stage."""

ID = re.compile(r"[0-9a-f]{16}")
MAX_DETAIL = 4000

Text = Annotated[
    str, Field(max_length=MAX_DETAIL, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f\x80-\x9f\u2028-\u202e\u2066-\u2069]*$")
]
"""Free text, without the control characters that would let a file paint on the reader's terminal."""

MAX_LINK = 500

Link = Annotated[str, Field(max_length=MAX_LINK, pattern=r"^(https?://[A-Za-z0-9][!#-;=?-Z_a-z~]*)?$")]
"""Where an issue is discussed: an address of the web in ASCII, or empty. Nothing that opens it can run what it says."""

MAX_SIGNATURE = 300


def _signature(value: object) -> Signature:
    """A signature, or the one that a text of a file stands for."""
    if isinstance(value, Signature):
        return value
    if not isinstance(value, str) or len(value) > MAX_SIGNATURE or value != _printable(value):
        raise ValueError(f"must be a printable text of at most {MAX_SIGNATURE} characters")
    return Signature.parse(value)


Kept = Annotated[Signature, PlainValidator(_signature), PlainSerializer(str)]
"""A signature, which is text in a file."""


class CorpusError(Exception):
    """A corpus file that cannot be used: "path: field: what is wrong"."""


class Record(Part):
    """What a case showed: the part of a Finding that is worth keeping."""

    signature: Kept
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
    def _stage_exists(cls, signature: Signature) -> Signature:
        require_stage(signature.stage)
        return signature

    @model_validator(mode="after")
    def _signature_says_so_too(self) -> Self:
        if self.signature.beyond != bool(self.beyond):
            raise ValueError(f"beyond must name the broken clause where the signature ends in {BEYOND}, and only there")
        return self

    @classmethod
    def of(cls, finding: Finding) -> Self:
        """Take over a finding; of its location, only the last folder and file."""
        location = "/".join(Path(finding.location).parts[-2:])
        texts = {
            "detail": finding.detail,
            "got": finding.got,
            "want": finding.want,
            "location": location,
            "beyond": finding.beyond,
        }
        printable = {name: _printable(text) for name, text in texts.items()}
        return cls(signature=finding.signature, index=finding.index, tier=finding.tier, **printable)


class Sighting(Part):
    """Where a case failed, and when. `signature` is given where it is another one than the entry's."""

    implementation: Text
    device: Text
    triton: Text
    torch: Text
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    signature: Kept | None = None

    @property
    def place(self) -> tuple[object, ...]:
        """What makes two sightings the same: all but the date."""
        return (self.implementation, self.device, self.triton, self.torch, self.signature)


Status = Literal["open", "unconfirmed", "fixed", "guard"]


class Entry(Part):
    """One file of the corpus.

    `open`: fails on the implementations in `seen`, nobody has mended it. `unconfirmed`: was seen to fail there, and not
    again when it was tried alone. `fixed`: failed once, no longer. `guard`: an interesting case that must pass.
    """

    case: Case
    finding: Record | None = None
    status: Status = "open"
    note: Text = ""
    link: Link = ""
    """The issue that is about it."""
    seen: tuple[Sighting, ...] = ()
    cause: Kept | None = None
    """The finding that a campaign put this one down to, as its most likely cause; it may yet be a bug of its own."""

    @model_validator(mode="after")
    def _failure_has_a_finding(self) -> Self:
        if self.finding is None and self.status != "guard":
            raise ValueError(f"status {self.status} needs a finding; only a guard can do without")
        if self.cause is not None and (self.finding is None or self.cause == self.finding.signature):
            raise ValueError("cause must be the signature of another finding than the entry's own")
        return self

    @property
    def stage(self) -> str:
        """The folder that the entry belongs in."""
        return self.finding.signature.stage if self.finding else WHOLE

    @property
    def file(self) -> str:
        """Path inside a corpus: <stage>/<id>.json."""
        return f"{self.stage}/{self.case.id}.json"

    def signatures(self, implementation: str) -> frozenset[Signature]:
        """What the case was seen to show on the implementation of that name."""
        if self.finding is None:
            return frozenset()
        return frozenset(s.signature or self.finding.signature for s in self.seen if s.implementation == implementation)

    def seen_elsewhere(self, implementation: str) -> list[str]:
        """The implementations that the case was seen to fail on, if that of this name is none of them."""
        names = dict.fromkeys(sighting.implementation for sighting in self.seen)
        return [] if implementation in names else list(names)

    def dumps(self) -> str:
        """The text of the file: JSON, a line for each part of the case."""
        data = self.model_dump(mode="json", exclude_defaults=True) | {"case": self.case.model_dump(mode="json")}
        parts = ",\n          ".join(f"{json.dumps(name)}: {json.dumps(part)}" for name, part in data["case"].items())
        lines = [f'"schema": {SCHEMA}', f'"case": {{{parts}}}']
        younger = (name for name in ("link", "cause") if getattr(self, name))
        texts = ("finding", "status", "note", *younger)
        lines += [f'"{name}": {json.dumps(data.get(name, getattr(self, name)))}' for name in texts]
        seen = ",\n          ".join(json.dumps(sighting) for sighting in data.get("seen", ()))
        lines.append(f'"seen": [{seen}]')
        return "{" + ",\n ".join(lines) + "}\n"


def _printable(text: str) -> str:
    """Text without control characters, cut to the length that a file may hold."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", "?", text)[:MAX_DETAIL]
