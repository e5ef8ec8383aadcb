"""The command `run`: a campaign with live progress."""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from indexfuzz.campaign.keeping import Keeper, probe
from indexfuzz.cli.common import (
    FINDINGS,
    NOTHING_NEW,
    USAGE_ERROR,
    InputError,
    console,
    default_corpus,
    under_test,
)
from indexfuzz.cli.coverage import covering, write_listing
from indexfuzz.cli.options import expand_options
from indexfuzz.cli.run_options import RunOptions
from indexfuzz.core import interrupts
from indexfuzz.core.presets import PRESETS
from indexfuzz.core.setup import Setup
from indexfuzz.corpus.entry import Entry
from indexfuzz.corpus.store import Corpus, open_signatures

if TYPE_CHECKING:
    from indexfuzz.campaign.events import Event
    from indexfuzz.campaign.settings import Settings
    from indexfuzz.campaign.summary import Summary
    from indexfuzz.cli.progress import Progress
    from indexfuzz.subjects.subject import Subject

DEFAULT_SECONDS = 60.0


@expand_options
def run(options: RunOptions) -> None:
    """Draw cases, run them on the kernels, compare with the reference; keep a minimal case of every new finding.

    Without --seconds and --cases it takes 60 seconds; with a --fault it ends as soon as that is found. The exit code
    is 0 when nothing new was found, 1 when something was, 2 when no stage could be tried, and 130 or 143 after Ctrl-C
    or SIGTERM when nothing was found. Making cases smaller takes at most half of --seconds.

    Example: `indexfuzz run --seconds 60` fuzzes the built-in kernels for a minute,
    `indexfuzz run --impl vllm:vllm-0.22.0.whl --stage gather` tests vLLM's gather,
    `indexfuzz run --fault rope-result-discarded` shows what a finding looks like,
    `indexfuzz run --impl module:my_kernels --python other/bin/python` runs them under another interpreter,
    `indexfuzz run --cases 200 --coverage` shows what the cases leave untried in the kernels.
    """
    options.check()
    kept = options.corpus or default_corpus(options.faults)
    _probe(options.out or kept)
    known = _known_entries(kept)
    setup = options.setup()
    target, covered = covering(setup) if options.coverage else (under_test(setup), None)

    from indexfuzz.campaign.loop import Campaign
    from indexfuzz.cli.progress import Progress
    from indexfuzz.cli.report import as_data, print_summary

    interrupts.check()
    settings = build_settings(options, setup, target.subject, known)
    progress = Progress(settings, target, console(err=options.as_json))
    keeper = Keeper(target.entry, options.out or kept, progress.tell)

    def listen(event: "Event") -> None:
        keeper.hear(event)
        progress.listen(event)

    with progress, _journaled(settings, setup, progress) as settings:
        summary = Campaign(settings, listen).run()
    if options.as_json:
        data = as_data(summary, keeper.saved, settings, target)
        typer.echo(json.dumps(data | ({"coverage": covered.as_data()} if covered else {}), indent=1))
    else:
        print_summary(summary, keeper.saved, target, console())
        if covered:
            console().print(f"\n{covered.report()}")
    if covered and options.coverage_listing:
        write_listing(covered, options.coverage_listing)
    raise typer.Exit(_exit_code(summary))


def _exit_code(summary: "Summary") -> int:
    """Green means that something was tried and nothing was found."""
    if summary.findings:
        return FINDINGS
    if summary.interrupted:
        return interrupts.Interrupted(summary.interrupted).exit_code
    if not summary.stages:
        return USAGE_ERROR
    return NOTHING_NEW


def _probe(folder: Path) -> None:
    """Raise InputError where findings could not be kept."""
    if folder.is_file():
        raise InputError(f"{folder} is a file; give the folder that holds <stage>/<id>.json")
    try:
        probe(folder)
    except OSError as error:
        raise InputError(f"cannot write findings to {folder}: {error.strerror}; choose another with --out") from None


def _known_entries(corpus: Path) -> list[Entry]:
    """The entries of a corpus that can be read; a line on standard error for each that cannot."""
    if corpus.is_file():
        raise InputError(f"--corpus {corpus}: is a file; give the folder that holds <stage>/<id>.json")
    found = []
    for _, entry in Corpus(corpus).entries():
        if isinstance(entry, Entry):
            found.append(entry)
        else:
            typer.echo(f"left out of the corpus: {entry}", err=True)
    return found


def build_settings(options: RunOptions, setup: Setup, subject: "Subject", kept: list[Entry]) -> "Settings":
    """What a campaign shall do with a subject, from what was typed; known findings are those of open entries."""
    from indexfuzz.campaign.settings import Settings
    from indexfuzz.subjects.fresh import shows_in_fresh_process

    return Settings(
        subject,
        only=frozenset(options.stages),
        preset=PRESETS[options.preset] if options.preset else None,
        values=options.regimes,
        seconds=DEFAULT_SECONDS if options.seconds is None and options.cases is None else options.seconds,
        cases=options.cases,
        seed=secrets.randbelow(1 << 32) if options.seed is None else options.seed,
        shard=options.parsed_shard,
        first_only=bool(options.faults) and options.seconds is None and options.cases is None,
        known=open_signatures(kept, subject.facts.name),
        confirm=partial(shows_in_fresh_process, setup),
    )


@contextmanager
def _journaled(settings: "Settings", setup: Setup, progress: "Progress") -> "Iterator[Settings]":
    """Keep the case in flight on disk, and tell of those of runs that died."""
    from indexfuzz.subjects.journal import Journal, left_behind

    try:
        for line in left_behind():
            progress.tell(line)
        journal = Journal(partial(setup.command, "replay"))
        journal.open()
    except OSError as error:
        progress.tell(f"the case in flight is not kept: cannot write to {error.filename}: {error.strerror}")
        yield settings
        return
    with journal:
        yield replace(settings, before_case=journal.note)
