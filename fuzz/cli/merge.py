"""The command `merge`: join what several runs have kept and logged."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from indexfuzz.cli.common import FINDINGS, NOTHING_NEW, USAGE_ERROR, InputError, console, make_folder_of
from indexfuzz.cli.options import AsJson
from indexfuzz.core import interrupts
from indexfuzz.core.words import path_from_here
from indexfuzz.corpus.entry import CorpusError, Entry
from indexfuzz.corpus.store import Corpus, is_entry, load

if TYPE_CHECKING:
    from indexfuzz.campaign.merged_log import RunFacts
    from indexfuzz.campaign.merging import Merged

LOG = ".jsonl"


@dataclass
class Sources:
    """What the words name: kept cases and logs. `complaints` are a line for each file that cannot be used."""

    entries: list[tuple[Path, Entry]] = field(default_factory=list)
    runs: "list[RunFacts]" = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


def merge(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR|FILE...",
            help=f"Folders, in which all kept cases (<stage>/<id>.json) and logs (*{LOG}) are found at any depth; or "
            "such files.",
        ),
    ],
    *,
    into: Annotated[Path, typer.Option(metavar="DIR", help="The corpus that the kept cases go into.")],
    log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="Write one log here, as if all had started at once."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Join what several runs have found: their kept cases into one corpus, their logs into one log.

    Of each signature the smallest case stays, and what one run would have put down to another finding is kept so.
    What was set by hand in DIR or in a source, a status or a note, is kept. A file that cannot be used is named, and
    changes nothing else. Merging the same again changes nothing.

    The exit code is 1 when DIR gets a finding that it did not have, else 2 when a file could not be used.

    Example: `indexfuzz merge shard-1 shard-2 --into corpus --log run.jsonl`
    """
    from indexfuzz.campaign.merging import merge_entries

    if into.is_file():
        raise InputError(f"--into {into}: is a file; give the folder that holds <stage>/<id>.json")
    read = _read_sources(sources, into, log)
    present = []
    for _, entry in Corpus(into).entries():
        if isinstance(entry, Entry):
            present.append(entry)
        else:
            read.complaints.append(str(entry))
    merged = merge_entries(present, read.entries)
    read.complaints += merged.conflicts
    interrupts.check()
    try:
        merged.write(into)
    except OSError as error:
        raise InputError(f"cannot write to {error.filename or into}: {error.strerror}") from None
    if log:
        _merge_logs(read.runs, log, merged)
    _tell(read, merged, into, log, as_json=as_json)
    new = any(True for _ in merged.new_findings())
    raise typer.Exit(FINDINGS if new else USAGE_ERROR if read.complaints else NOTHING_NEW)


def _read_sources(words: Sequence[Path], into: Path, log: Path | None) -> Sources:
    """Everything that the words name and can be read.

    Raises InputError for a word that names nothing.
    """
    from indexfuzz.campaign.log_reader import LogError
    from indexfuzz.campaign.merged_log import examine_log

    read, taken = Sources(), {log.resolve()} if log else set()
    for word in words:
        files = list(_files_in(word, into)) if word.is_dir() else [word]
        if not word.is_dir() and not word.exists():
            raise InputError(f"{word}: no such file or folder")
        for path in files:
            if path.resolve() in taken:
                continue
            taken.add(path.resolve())
            interrupts.check()
            try:
                if path.suffix == ".json":
                    read.entries.append((path, load(path)))
                elif log:
                    read.runs.append(examine_log(path))
                elif not word.is_dir():
                    raise InputError(f"{word}: is a log; say with --log where the merged one goes")
            except (CorpusError, LogError) as error:
                read.complaints.append(str(error))
    return read


def _files_in(folder: Path, into: Path) -> Iterator[Path]:
    """The kept cases and logs below a folder that are not hidden; none of the corpus that they go into."""
    target = into.resolve()
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and (here / name).resolve() != target)
        if here.resolve() != target:
            found = (here / name for name in sorted(files) if not name.startswith("."))
            yield from (path for path in found if path.suffix == LOG or is_entry(path))


def _merge_logs(runs: "list[RunFacts]", log: Path, merged: "Merged") -> None:
    from indexfuzz.campaign.log_reader import LogError
    from indexfuzz.campaign.merged_log import merge_logs

    if not runs:
        raise InputError("--log: there is no log to merge; `indexfuzz run --log FILE` writes one")
    kept = {str(e.finding.signature): e.case.id for e in merged.entries.values() if e.finding}
    try:
        make_folder_of(log)
        merge_logs(runs, log, kept, merged.symptoms)
    except LogError as error:
        raise InputError(f"--log: {error}") from None
    except OSError as error:
        raise InputError(f"--log {log}: {error.strerror}") from None


def _tell(read: Sources, merged: "Merged", into: Path, log: Path | None, *, as_json: bool) -> None:
    errors = console(err=True)
    for complaint in read.complaints:
        errors.print(f"left out: {complaint}")
    if as_json:
        typer.echo(json.dumps(_as_data(read, merged, into), indent=1))
        return
    out = console()
    for found in merged.new_findings():
        out.print(f"new: {found.signature}  {path_from_here(into / found.file)}", style="bold red")
        for symptom, file in found.symptoms.items():
            out.print(f"  also seen as {symptom}; kept as {path_from_here(into / file)}")
    gone = f", {merged.replaced} gave way to a smaller case of the same" if merged.replaced else ""
    out.print(f"{len(read.entries)} kept cases read{gone}; {len(merged.entries)} in {into}")
    if log:
        ids = set().union(*(run.ids for run in read.runs))
        cases = sum(run.cases for run in read.runs)
        out.print(f"{len(read.runs)} logs read, {cases} cases, {len(ids)} different ones; merged in {log}")


def _as_data(read: Sources, merged: "Merged", into: Path) -> dict[str, Any]:
    """The same as plain JSON data."""
    return {
        "new": [
            {
                "signature": str(found.signature),
                "file": str(into / found.file),
                "symptoms": list(map(str, found.symptoms)),
                "symptom_files": [str(into / file) for file in found.symptoms.values()],
            }
            for found in merged.new_findings()
        ],
        "read": len(read.entries),
        "kept": len(merged.entries),
        "replaced": merged.replaced,
        "left_out": read.complaints,
        "logs": len(read.runs),
        "cases": sum(run.cases for run in read.runs),
        "different_cases": len(set[int]().union(*(run.ids for run in read.runs))),
    }
