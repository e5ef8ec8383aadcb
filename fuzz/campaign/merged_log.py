"""Merge the logs of several campaigns into one, as if all had started at once: what it took together to find what.

Each log is read twice and none is held in memory: once to see what it found, once to write.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from pathlib import Path
from typing import Any

from indexfuzz.campaign.log import AnyLine, CaseLine, End, FindingLine, Joined, Start, dump_line
from indexfuzz.campaign.log_reader import LogError, read_lines
from indexfuzz.core.signature import Signature
from indexfuzz.core.words import printable
from indexfuzz.corpus.store import replacing


@dataclass
class RunFacts:
    """What a log says: `found` is its last word on each signature, `ids` are those of its cases."""

    path: Path
    start: Start
    cases: int = 0
    seconds: float = 0.0
    found: dict[str, FindingLine] = field(default_factory=dict)
    ids: set[int] = field(default_factory=set)
    end: End | None = None

    @property
    def joined(self) -> Joined:
        """The run as a part of a merged one."""
        facts = self.start
        return Joined(
            seed=facts.seed,
            shard=facts.shard,
            workers=facts.workers,
            cases=self.cases,
            seconds=self.seconds,
            ended=self.end is not None,
        )


def examine_log(path: Path) -> RunFacts:
    """Read a log from its first line to its last.

    Raises LogError, also for one that holds several runs, or was merged before.
    """
    lines = read_lines(path)
    run = RunFacts(path, _start(lines, path))
    if run.start.runs:
        raise LogError(f"{path}: was merged before; give the logs that it was made of")
    for line in lines:
        if isinstance(line, Start):
            raise LogError(f"{path}: holds more than one run; give each log by itself")
        run.seconds = max(run.seconds, line.t)
        if isinstance(line, CaseLine):
            run.cases += 1
            run.ids.add(int(line.case, 16))
        elif isinstance(line, End):
            run.end = line
        elif isinstance(line, FindingLine):
            _check_signature(line, path)
            if line.event == "found":
                run.found[line.signature] = line
            elif line.event == "explained":
                run.found.pop(line.signature, None)
    return run


def check_alike(runs: Sequence[RunFacts]) -> None:
    """Raise LogError where logs are of different things, so that one log cannot tell of them."""
    first = runs[0]
    for run in runs[1:]:
        for name in ("implementation", "device"):
            one, other = getattr(first.start, name), getattr(run.start, name)
            if one != other:
                ours, theirs = f"{name} {printable(other)!r}", f"{printable(one)!r} as in {first.path}"
                raise LogError(f"{run.path}: is of the {ours}, not {theirs}; merge logs of one thing at a time")


def merge_logs(
    runs: Sequence[RunFacts], to: Path, kept: Mapping[str, str], symptoms: Mapping[Signature, Signature]
) -> None:
    """Write one log of several runs; the path holds all of it or what was there before.

    `kept` maps signatures to the case that is kept of them, where one is; `symptoms` maps signatures that are none of
    their own to their cause. Raises OSError, and LogError where a log has changed since it was examined.
    """
    check_alike(runs)
    chosen = _choose(runs, kept)
    streams = (_numbered(number, run.path) for number, run in enumerate(runs))
    lines = merge(*streams, key=lambda pair: pair[1].t)
    with replacing(to) as file:
        file.write(dump_line(_start_of_all(runs)))
        for line in _rewrite(lines, chosen, {str(s): str(cause) for s, cause in symptoms.items()}):
            file.write(dump_line(line))
        file.write(dump_line(_end_of_all(runs, chosen.keys() - {str(signature) for signature in symptoms})))


def _choose(runs: Sequence[RunFacts], kept: Mapping[str, str]) -> dict[str, int]:
    """Signature -> the number of the run that has the last word on it: the one whose case is kept, else the first."""
    chosen: dict[str, int] = {}
    for number, run in enumerate(runs):
        for signature, line in run.found.items():
            if signature not in chosen or (
                line.case == kept.get(signature) and runs[chosen[signature]].found[signature].case != line.case
            ):
                chosen[signature] = number
    return chosen


def _rewrite(
    lines: Iterable[tuple[int, AnyLine]], chosen: Mapping[str, int], symptoms: Mapping[str, str]
) -> Iterator[AnyLine]:
    """The lines of a merged log: each signature is seen once, and one run alone tells what became of it."""
    seen: set[str] = set()
    for number, line in lines:
        if isinstance(line, Start | End):
            continue
        if not isinstance(line, FindingLine):
            yield line
            continue
        signature = line.signature
        if line.event == "seen":
            is_first = signature not in seen
            seen.add(signature)
            yield line if is_first else line.model_copy(update={"event": "known"})
        elif line.event == "explained":
            if signature not in chosen:
                yield line
        elif line.event == "known" or chosen.get(signature, number) == number:
            changes: dict[str, str | None] = {"seen_as": None} if line.seen_as in chosen else {}
            if line.event == "found" and signature in symptoms:
                changes |= {"event": "explained", "by": symptoms[signature]}
            yield line.model_copy(update=changes)


def _start_of_all(runs: Sequence[RunFacts]) -> Start:
    first = runs[0].start
    several: dict[str, Any] = {
        name: ", ".join(sorted({getattr(run.start, name) for run in runs})) for name in ("indexfuzz", "torch", "triton")
    }
    several |= {"workers": sum(run.start.workers for run in runs), "runs": tuple(run.joined for run in runs)}
    several |= {"corpus": ""}  # What several runs have kept lies where it was merged to.
    return first.model_copy(update=several)


def _end_of_all(runs: Sequence[RunFacts], signatures: Iterable[str]) -> End:
    interrupted = next((run.end.interrupted for run in runs if run.end and run.end.interrupted), 0)
    return End(
        t=max(run.seconds for run in runs),
        cases=sum(run.cases for run in runs),
        findings=tuple(sorted(signatures)),
        interrupted=interrupted,
    )


def _numbered(number: int, path: Path) -> Iterator[tuple[int, AnyLine]]:
    return ((number, line) for line in read_lines(path))


def _start(lines: Iterator[AnyLine], path: Path) -> Start:
    first = next(lines)
    if not isinstance(first, Start):
        raise LogError(f"{path}: does not begin with the line that starts a log")
    return first


def _check_signature(line: FindingLine, path: Path) -> None:
    if printable(line.signature) != line.signature:
        raise LogError(f"{path}: the signature {line.signature!r} has control characters")
    try:
        Signature.parse(line.signature)
    except ValueError as error:
        raise LogError(f"{path}: {printable(str(error))}") from None
