"""The command `prune`: the fewest guards that reach what all of them do."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

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
from indexfuzz.corpus.entry import Entry
from indexfuzz.corpus.store import Corpus

SHOWN = 3
"""How many of the things that a guard is for are printed."""


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
    from indexfuzz.campaign.guarding import choose_guards, is_guard, run_guard

    corpus = Corpus(folder or default_corpus(kernels.faults))
    if not corpus.folder.is_dir():
        raise InputError(f"{corpus.folder}: no such folder")
    entries, complaints = _read_guards(corpus)
    subject = reaching_target(kernels.setup()).subject
    guards = {path: run_guard(entry, subject) for path, entry in entries}
    complaints += [f"stays: {path}: {guard.complaint}" for path, guard in guards.items() if guard.complaint]
    free = {path: guard for path, guard in guards.items() if is_guard(guard.entry) and not guard.complaint}
    bound = [guard.reached for path, guard in guards.items() if path not in free]
    chosen = choose_guards([(guard.entry.case, guard.reached) for guard in free.values()], bound)
    gone = [path for path, guard in free.items() if guard.entry.case.id not in chosen]
    if not dry_run:
        _remove(gone)
    for complaint in complaints:
        console(err=True).print(complaint)
    rest = {p: chosen.get(guard.entry.case.id, frozenset()) for p, guard in guards.items() if p not in gone}
    if as_json:
        kept = [{"file": str(path), "alone": sorted(alone)} for path, alone in rest.items()]
        typer.echo(json.dumps({"guards": kept, "removed": [str(path) for path in gone]}, indent=1))
    else:
        for path, alone in rest.items():
            console().print(f"{path}  {_explain(alone)}")
        reached = frozenset[str]().union(*(guard.reached for guard in guards.values()))
        end = "would go" if dry_run else "were removed"
        console().print(f"{len(rest)} guards reach {len(reached)} things; {len(gone)} that reach nothing else {end}")
    failing = any(guard.fails for guard in guards.values())
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
