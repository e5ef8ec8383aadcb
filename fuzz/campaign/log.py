"""The log of a campaign: what happened, one JSON object a line, for reports and for merging what several machines did.

docs/run-log.schema.json is the JSON schema of a line; `Line` reads and checks one.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, Self, TextIO

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from indexfuzz import __version__
from indexfuzz.campaign.events import CaseRun, Died, Event, Explained, Found, Known, Seen, Smaller, Unsupported
from indexfuzz.campaign.settings import Settings
from indexfuzz.campaign.summary import Summary

CaseId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$", description="The id of a case, as in the corpus.")]
Signature = Annotated[str, Field(description="stage/kind/output, as in the corpus.")]


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    t: Annotated[float, Field(ge=0, allow_inf_nan=False, description="Seconds since the start.")]


class Joined(BaseModel):
    """One of the runs of a merged log: what determined its cases, how many there were, whether it came to its end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    shard: tuple[int, int]
    workers: int
    cases: int
    seconds: float
    ended: bool


class Start(_Line):
    """The first line: what is under test, and what determines its cases.

    In a merged log, `runs` are those that were merged, as if all had started at once; `seed` and `shard` are of the
    first, and `workers` those of all.
    """

    event: Literal["start"] = "start"
    schema_version: Literal[1] = 1
    indexfuzz: str
    implementation: str
    device: str
    torch: str
    triton: str
    seed: int
    shard: tuple[int, int]
    workers: int
    corpus: Annotated[str, Field(description="Where the run keeps what it finds, from the folder of the log.")] = ""
    runs: tuple[Joined, ...] = ()


class CaseLine(_Line):
    """A case has run: the stages that did, those outside their contract, and what was wrong."""

    event: Literal["case"] = "case"
    case: CaseId
    stages: tuple[str, ...]
    outside: tuple[str, ...] = ()
    findings: tuple[Signature, ...] = ()


class FindingLine(_Line):
    """A signature was seen for the first time, or again (known), by a smaller case, or for the last time (found).

    `explained` puts one down to `by`, which was not seen before, or takes it back; one that is `known` may say so, too.
    Its case is kept nevertheless. `doubt` says why the case may not show it again.
    """

    event: Literal["known", "seen", "smaller", "found", "explained"]
    case: CaseId
    signature: Signature
    detail: str = ""
    doubt: str = ""
    seen_as: Signature | None = None
    by: Signature | None = None


class MessageLine(_Line):
    """The device cannot run a case, or a process died: once and not again, or so that it was replaced."""

    event: Literal["unsupported", "unrepeated", "died"]
    message: str
    file: Annotated[str, Field(description="The case that was in flight when a process died.")] = ""


class End(_Line):
    """The last line of a campaign that came to its end, or was interrupted by that signal."""

    event: Literal["end"] = "end"
    cases: int
    findings: tuple[Signature, ...]
    interrupted: int


AnyLine = Start | CaseLine | FindingLine | MessageLine | End

Line: TypeAdapter[Any] = TypeAdapter(Annotated[AnyLine, Field(discriminator="event")])
"""Reads a line: `Line.validate_json(text)`; raises pydantic's ValidationError for what is none."""


def dump_line(line: _Line) -> str:
    """The text of a line, with its end."""
    return line.model_dump_json(exclude_none=True) + "\n"


_FINDINGS = {Known: "known", Seen: "seen", Smaller: "smaller", Found: "found", Explained: "explained"}


def _path_between(here: Path, there: Path) -> str:
    return Path(os.path.relpath(there.resolve(), here.resolve())).as_posix()


class RunLog:
    """Writes a log as things happen. `notice` hears when that is no longer possible; the campaign goes on."""

    def __init__(self, path: Path, notice: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        """Create the file, or empty it.

        Raises OSError.
        """
        self._file: TextIO = path.open("w", encoding="utf-8", buffering=1)
        self._path = path
        self._notice = notice
        self._clock = clock
        self._started = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def start(self, **facts: Any) -> None:
        """Write the first line: the fields of Start."""
        self._write(Start(t=0.0, **facts))

    def start_of(self, wanted: Settings, workers: int, corpus: Path) -> None:
        """Write the first line of a campaign in so many processes, which keeps what it finds in that folder."""
        facts = wanted.subject.facts
        self.start(
            indexfuzz=__version__,
            implementation=facts.name,
            device=facts.device,
            torch=facts.torch,
            triton=facts.triton,
            seed=wanted.seed,
            shard=wanted.shard,
            workers=workers,
            corpus=_path_between(self._path.parent, corpus),
        )

    def end(self, summary: Summary) -> None:
        """Write the last line."""
        signatures = tuple(str(found.finding.signature) for found in summary.findings)
        self._write(End(t=self._now, cases=summary.cases, findings=signatures, interrupted=summary.interrupted))

    def hear(self, event: Event) -> None:
        """Write a line."""
        self._write(self._line(event))

    @property
    def _now(self) -> float:
        return round(self._clock() - self._started, 3)

    def _line(self, event: Event) -> _Line:
        if isinstance(event, CaseRun):
            outcome = event.outcome
            found = tuple(str(finding.signature) for finding in outcome.findings)
            stages, outside = tuple(outcome.stages), tuple(outcome.outside)
            return CaseLine(t=self._now, case=outcome.case.id, stages=stages, outside=outside, findings=found)
        if isinstance(event, Known | Seen | Smaller | Found | Explained):
            more: dict[str, Any] = {}
            if isinstance(event, Found):
                more = {"doubt": event.doubt, "seen_as": str(event.seen_as) if event.seen_as else None}
            elif isinstance(event, Known | Explained) and event.by != event.finding.signature:
                more = {"by": str(event.by)}
            finding, name = event.finding, _FINDINGS[type(event)]
            what = {"signature": str(finding.signature), "detail": finding.detail, "case": event.case.id}
            return FindingLine.model_validate({"t": self._now, "event": name, **what, **more})
        if isinstance(event, Died):
            return MessageLine(t=self._now, event="died", message=event.message, file=event.file)
        name = "unsupported" if isinstance(event, Unsupported) else "unrepeated"
        return MessageLine.model_validate({"t": self._now, "event": name, "message": event.message})

    def _write(self, line: _Line) -> None:
        if self._file.closed:
            return
        try:
            self._file.write(dump_line(line))
        except OSError as error:
            with suppress(OSError):  # what is left in its buffer cannot be written, either
                self._file.close()
            self._notice(f"no more is written to {self._path}: {error.strerror}")
