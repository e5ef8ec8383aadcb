"""Merge what the slices of a campaign have left in the shared folder into its corpus, and their logs into one.

Slices of campaigns that ended without that are merged with it. Merging the same again changes nothing, and a file is
removed only once what it says is elsewhere.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from indexfuzz.campaign.log_reader import LogError
from indexfuzz.campaign.merged_log import RunFacts, examine_log, merge_logs
from indexfuzz.campaign.merging import Merged, merge_entries
from indexfuzz.corpus.entry import Entry
from indexfuzz.fleet.shared import Shared
from indexfuzz.fleet.slices import NAME_OF_LOG

CORPUS, SLICES, LOGS = "corpus", "slices", "logs"


@dataclass
class Collected:
    """What lies in the shared folder now. `log` is the name of the merged log, empty where there was none to merge.

    `complaints` are a sentence for each file that could not be used.
    """

    merged: Merged
    runs: list[RunFacts] = field(default_factory=list)
    log: str = ""
    complaints: list[str] = field(default_factory=list)


def read_corpus(shared: Shared) -> tuple[list[Entry], list[str]]:
    """The entries of the shared corpus, and a sentence for each file that cannot be used.

    Raises SharedError.
    """
    found, complaints = [], []
    for _, entry in shared.entries(CORPUS):
        if isinstance(entry, Entry):
            found.append(entry)
        else:
            complaints.append(str(entry))
    return found, complaints


def collect(shared: Shared, campaign: str) -> Collected:
    """Merge all slices, and the logs of this campaign; its slices are gone afterwards.

    Raises SharedError.
    """
    present, complaints = read_corpus(shared)
    broken = {complaint.partition(":")[0] for complaint in complaints}
    taken: list[tuple[Path, Entry]] = []
    for name, entry in shared.entries(SLICES):
        if isinstance(entry, Entry):
            taken.append((Path(name), entry))
        else:
            complaints.append(str(entry))
    merged = merge_entries(present, taken)
    result = Collected(merged, complaints=complaints + merged.conflicts)
    _publish(merged, shared, broken)
    ours = f"{SLICES}/{campaign}"
    merged_logs = _merge_logs(shared, campaign, result)
    for name in [name for path, _ in taken if (name := path.as_posix()).startswith(f"{ours}/")] + merged_logs:
        shared.remove(name)
    return result


def _publish(merged: Merged, shared: Shared, broken: set[str]) -> None:
    """Bring the shared corpus to what it became: first what is new in it, then without what gave way."""
    for file, entry in merged.entries.items():
        name = f"{CORPUS}/{file}"
        if entry != merged.before.get(file):
            if name in broken:
                shared.set_aside(name)
            shared.write(name, entry.dumps().encode())
    for file in merged.before.keys() - merged.entries.keys():
        shared.remove(f"{CORPUS}/{file}")


def _merge_logs(shared: Shared, campaign: str, result: Collected) -> list[str]:
    """Write one log of those of the campaign's slices; the names of these."""
    with tempfile.TemporaryDirectory(prefix="indexfuzz-logs-") as folder:
        taken: list[str] = []
        for name in shared.names(f"{SLICES}/{campaign}"):
            if not name.endswith(f"/{NAME_OF_LOG}"):
                continue
            path = Path(folder) / f"{len(taken)}.jsonl"
            shared.download(name, path)
            try:
                result.runs.append(examine_log(path))
            except LogError as error:
                result.complaints.append(f"{name}: {str(error).removeprefix(f'{path}: ')}")
            else:
                taken.append(name)
        if taken:
            _write_log(shared, campaign, result, Path(folder))
    return taken if result.log else []


def _write_log(shared: Shared, campaign: str, result: Collected, folder: Path) -> None:
    kept = {str(e.finding.signature): e.case.id for e in result.merged.entries.values() if e.finding}
    path, name = folder / "merged.jsonl", f"{LOGS}/{campaign}.jsonl"
    try:
        merge_logs(result.runs, path, kept, result.merged.symptoms)
    except LogError as error:
        result.complaints.append(f"{name}: {error}")
        return
    shared.upload(path, name)
    result.log = name


def findings_of(merged: Merged) -> Sequence[tuple[str, str]]:
    """The findings that the corpus did not have: signature, and name of the file below the shared folder."""
    return [(str(found.signature), f"{CORPUS}/{found.file}") for found in merged.new_findings()]
