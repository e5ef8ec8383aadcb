"""Join the corpora of several campaigns into one: what a single campaign would have kept, had it run all their cases.

Of one signature, seen in the same places, the smallest case stays; what another finding most likely explains is put
down to it. A status or a note that somebody set by hand is never lost, nor is the case it stands on.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from indexfuzz.campaign.doubts import is_own_note
from indexfuzz.core.finding import Finding
from indexfuzz.core.signature import Signature
from indexfuzz.corpus.entry import Entry, Record
from indexfuzz.corpus.store import Corpus, merge, open_signatures, write
from indexfuzz.oracles.mistakes import Mistakes
from indexfuzz.triage.order import size_of

BY_HAND = frozenset({"fixed", "guard"})
"""What becomes of a finding only where somebody says so."""


class ConflictError(Exception):
    """Two entries of one case say what cannot be joined. One sentence."""


@dataclass(frozen=True)
class NewFinding:
    """A finding that the corpus did not have: the file that keeps it, and those of what is put down to it."""

    file: str
    entry: Entry
    symptoms: Mapping[Signature, str] = field(default_factory=dict)

    @property
    def signature(self) -> Signature:
        """Which finding it is."""
        return _record(self.entry).signature


@dataclass
class Merged:
    """What a corpus becomes. `entries` maps its files, <stage>/<id>.json, to what they hold.

    `symptoms` maps signatures that were put down to another here to their cause; `replaced` counts entries that gave
    way to a smaller case of the same. `conflicts` are a sentence each.
    """

    before: Mapping[str, Entry]
    entries: dict[str, Entry]
    symptoms: dict[Signature, Signature] = field(default_factory=dict)
    replaced: int = 0
    conflicts: list[str] = field(default_factory=list)

    def new_findings(self) -> Iterator[NewFinding]:
        """Findings that are open or unconfirmed and were not before, on some implementation, in the order of files.

        What is put down to one that is there comes with that.
        """
        there = _open_signatures(self.entries.values())
        known = {pair for entry in self.before.values() if _is_open(entry) for pair in _shown(entry)}
        for file, entry in sorted(self.entries.items()):
            if file in self.before or not _is_open(entry) or _shown(entry) <= known or entry.cause in there:
                continue
            known |= _shown(entry)
            yield NewFinding(file, entry, dict(self._put_down_to(_record(entry).signature)))

    def _put_down_to(self, signature: Signature) -> Iterator[tuple[Signature, str]]:
        """What is new and put down to a finding, with its files."""
        for file, entry in sorted(self.entries.items()):
            if entry.cause == signature and file not in self.before:
                yield _record(entry).signature, file

    def write(self, folder: Path) -> None:
        """Bring a folder to this state: first what is new in it, then without what gave way.

        At any moment each of its files is whole, and every finding that it had is in it. Raises OSError.
        """
        for file, entry in self.entries.items():
            if file not in self.before:
                Corpus(folder).save(entry)
            elif entry != self.before[file]:
                write(entry, folder / file)
        for file in self.before.keys() - self.entries.keys():
            (folder / file).unlink(missing_ok=True)


def merge_entries(present: Iterable[Entry], others: Sequence[tuple[Path, Entry]]) -> Merged:
    """What becomes of the entries of a corpus when those of others, each with its path, join it."""
    before = {entry.file: entry for entry in present}
    result = Merged(before, dict(before))
    entries = result.entries
    for path, entry in sorted(others, key=lambda other: (other[1].file, str(other[0]))):
        there = entries.get(entry.file)
        try:
            entries[entry.file] = join(there, entry) if there else entry
        except ConflictError as error:
            result.conflicts.append(f"{path}: {error}")
    _keep_causes(result)
    _put_down_symptoms(result)
    _leave_out_larger(result)
    return result


def join(present: Entry, other: Entry) -> Entry:
    """One entry of two about the same case; what was set by hand is kept, of both.

    Raises ConflictError where that contradicts itself.
    """
    joined = merge(present, other)
    by_hand = [entry for entry in (present, other) if not is_own_note(entry.note)]
    campaign_note = (present if joined.status == present.status else other).note
    note = "\n".join(dict.fromkeys(line for entry in by_hand for line in entry.note.split("\n"))) or campaign_note
    link = present.link or other.link
    if other.link not in ("", link):
        raise ConflictError(f"says {other.link} where the corpus says {link}; the corpus is left so")
    status = joined.status
    if other.status in BY_HAND and not _is_planted(other):
        if present.status in BY_HAND and not _is_planted(present) and present.status != other.status:
            raise ConflictError(f"says {other.status} where the corpus says {present.status}; the corpus is left so")
        status = other.status
    try:
        return Entry.model_validate(dict(joined) | {"status": status, "note": note, "link": link})
    except ValidationError:
        raise ConflictError("its note does not fit beside that of the corpus, which is left as it is") from None


def _keep_causes(result: Merged) -> None:
    """What the corpus puts down to something that it has stays so, whatever a source says of the same case."""
    there = _open_signatures(result.before.values())
    for file, entry in result.before.items():
        joined = result.entries[file]
        if entry.cause in there and _is_open(joined) and _record(joined).signature == _record(entry).signature:
            result.entries[file] = joined.model_copy(update={"cause": entry.cause})


def _put_down_symptoms(result: Merged) -> None:
    """Put new findings down to others where a single campaign would have."""
    fresh = [(f, e) for f, e in result.entries.items() if f not in result.before and _is_open(e) and _may_go(e)]
    fresh.sort(key=lambda pair: (size_of(pair[1].case), pair[0]))
    causes: dict[str, list[Signature | None]] = {file: [] for file, _ in fresh}
    for place in sorted({place for _, entry in fresh for place in _campaigns(entry)}):
        here = [(file, entry) for file, entry in fresh if place in _campaigns(entry)]
        mistakes = Mistakes(open_signatures(result.before.values(), place[0]))
        for _, entry in here:
            if mistakes.explain(finding := _finding(entry)) is None:
                mistakes.add(finding)
        for file, entry in here:
            cause = mistakes.explain(_finding(entry))
            causes[file].append(cause if cause != _record(entry).signature else None)
    for file, entry in fresh:
        if causes[file] and None not in causes[file]:
            cause = causes[file][0]
            result.symptoms |= {_record(entry).signature: cause} if cause else {}
            result.entries[file] = entry.model_copy(update={"cause": cause})


def _leave_out_larger(result: Merged) -> None:
    """Of entries with one signature, leave out those whose places a smaller case covers."""
    groups: dict[tuple[Signature, str], list[tuple[str, Entry]]] = {}
    for file, entry in result.entries.items():
        if entry.finding is not None:
            standing = "open" if _is_open(entry) else entry.status
            groups.setdefault((entry.finding.signature, standing), []).append((file, entry))
    for group in groups.values():
        group.sort(key=lambda pair: (*_doubts(pair[1]), size_of(pair[1].case), pair[0]))
        for number, (file, entry) in enumerate(group):
            places = {sighting.place for sighting in entry.seen}
            smaller = [other for name, other in group[:number] if name in result.entries]
            if _may_go(entry) and places and any(places <= {s.place for s in other.seen} for other in smaller):
                result.replaced += 1
                del result.entries[file]


def _doubts(entry: Entry) -> tuple[bool, bool]:
    """Whether an entry is put down to another, and whether it was never confirmed; what has neither comes first."""
    return entry.cause is not None, entry.status == "unconfirmed"


def _open_signatures(entries: Iterable[Entry]) -> set[Signature]:
    """What entries show that are not mended, on any implementation."""
    return {signature for entry in entries if _is_open(entry) for _, signature in _shown(entry)}


def _may_go(entry: Entry) -> bool:
    """Whether nobody has said anything about an entry by hand."""
    return is_own_note(entry.note) and not entry.link and (entry.status not in BY_HAND or _is_planted(entry))


def _is_planted(entry: Entry) -> bool:
    """Whether an entry is of a planted bug, whose status no hand has set."""
    return entry.status == "guard" and bool(entry.note) and is_own_note(entry.note)


def _is_open(entry: Entry) -> bool:
    return entry.status not in BY_HAND


def _campaigns(entry: Entry) -> set[tuple[str, str]]:
    """The implementations, and devices, whose campaigns have seen an entry."""
    return {(sighting.implementation, sighting.device) for sighting in entry.seen}


def _shown(entry: Entry) -> frozenset[tuple[str, Signature]]:
    """What an entry shows, and on which implementation."""
    names = {sighting.implementation for sighting in entry.seen}
    return frozenset((name, signature) for name in names for signature in entry.signatures(name))


def _record(entry: Entry) -> Record:
    if entry.finding is None:
        raise ValueError(f"the case {entry.case.id} has no finding")
    return entry.finding


def _finding(entry: Entry) -> Finding:
    """The finding that a record was made of, as far as it goes."""
    record = _record(entry)
    signature = record.signature
    parts = (signature.stage, signature.kind, signature.output, record.detail, signature.feature)
    return Finding(*parts, location=record.location, beyond=record.beyond)
