"""The command `prune`: the fewest guards that reach what all of them do."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indexfuzz.cli.common import (
    FINDINGS,
    NOTHING_NEW,
    USAGE_ERROR,
    InputError,
    console,
    default_corpus,
)
from indexfuzz.cli.coverage import reaching_target
from indexfuzz.cli.options import AsJson, KernelOptions, expand_options
from indexfuzz.core import interrupts
from indexfuzz.core.finding import summary_line
from indexfuzz.corpus.entry import Entry
from indexfuzz.corpus.store import Corpus

if TYPE_CHECKING:
    from indexfuzz.subjects.reaching import Reaching

SHOWN = 3
"""How many of the things that a guard is for are printed."""


@dataclass(frozen=True)
class Guard:
    """A guard and what it reaches, or why that cannot be said; `fails` where that is a finding."""

    path: Path
    entry: Entry
    reached: frozenset[str] = frozenset()
    complaint: str = ""
    fails: bool = False


@expand_options
def prune(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", show_default="the corpus of the project", help="The corpus with the guards."),
    ] = None,
    *,
    kernels: KernelOptions,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which guards would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove guards without which the others still reach all that all of them do; say what each one left is for.

    What they reach are masks and branches of the kernels, line by line, conditions of their launchers, stages, oracles,
    and classes of parameters. Guards that have shown a finding stay, and so do those with a note of somebody's own.

    The exit code is 1 when a guard fails, else 2 when one cannot be read or run; such guards stay.

    Example: `indexfuzz run --seconds 600 --keep-coverage`, then `indexfuzz prune`
    """
    from indexfuzz.campaign.guarding import choose_guards, is_guard

    corpus = Corpus(folder or default_corpus(kernels.faults))
    if not corpus.folder.is_dir():
        raise InputError(f"{corpus.folder}: no such folder")
    entries, complaints = _read_guards(corpus)
    subject = reaching_target(kernels.setup()).subject
    guards = [_run(path, entry, subject) for path, entry in entries]
    complaints += [f"stays: {guard.path}: {guard.complaint}" for guard in guards if guard.complaint]
    free = [guard for guard in guards if is_guard(guard.entry) and not guard.complaint]
    bound = [guard.reached for guard in guards if guard not in free]
    chosen = choose_guards([(guard.entry.case, guard.reached) for guard in free], bound)
    gone = [guard for guard in free if guard.entry.case.id not in chosen]
    if not dry_run:
        _remove(guard.path for guard in gone)
    for complaint in complaints:
        console(err=True).print(complaint)
    rest = [(guard, chosen.get(guard.entry.case.id, frozenset())) for guard in guards if guard not in gone]
    if as_json:
        kept = [{"file": str(guard.path), "alone": sorted(alone)} for guard, alone in rest]
        typer.echo(json.dumps({"guards": kept, "removed": [str(guard.path) for guard in gone]}, indent=1))
    else:
        for guard, alone in rest:
            console().print(f"{guard.path}  {_explain(alone)}")
        reached = frozenset[str]().union(*(guard.reached for guard in guards))
        end = "would go" if dry_run else "were removed"
        console().print(f"{len(rest)} guards reach {len(reached)} things; {len(gone)} that reach nothing else {end}")
    failing = any(guard.fails for guard in guards)
    raise typer.Exit(FINDINGS if failing else USAGE_ERROR if complaints else NOTHING_NEW)


def _read_guards(corpus: Corpus) -> tuple[list[tuple[Path, Entry]], list[str]]:
    """The guards of a corpus, and a line for each file that cannot be read."""
    guards, complaints = [], []
    for path, entry in corpus.entries():
        if not isinstance(entry, Entry):
            complaints.append(f"left out: {entry}")
        elif entry.status == "guard":
            guards.append((path, entry))
    return guards, complaints


def _run(path: Path, entry: Entry, subject: "Reaching") -> Guard:
    """Look what a guard reaches; whatever goes wrong concerns it alone."""
    from indexfuzz.devices.base import UnsupportedKernelError
    from indexfuzz.implementations.base import ImplementationError

    interrupts.check()
    try:
        outcome = subject.run(entry.case)
    except (UnsupportedKernelError, ImplementationError) as error:
        return Guard(path, entry, complaint=str(error))
    if outcome.findings:
        return Guard(path, entry, outcome.reached, f"it fails: {summary_line(outcome.findings[0])}", fails=True)
    return Guard(path, entry, outcome.reached)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot remove {path}: {error.strerror}") from None


def _explain(alone: frozenset[str]) -> str:
    """What a guard reaches that no other does."""
    if not alone:
        return "stays, whatever it reaches"
    more = f" and {len(alone) - SHOWN} more" if len(alone) > SHOWN else ""
    return f"alone reaches {'; '.join(sorted(alone)[:SHOWN])}{more}"
