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

from indexfuzz.cli.common import (
    FINDINGS,
    INTERNAL_ERROR,
    NOTHING_NEW,
    console,
    default_corpus,
    interrupted_by_sigterm,
    under_test,
)
from indexfuzz.cli.coverage import covering, write_listing
from indexfuzz.cli.options import expand_options
from indexfuzz.cli.run_options import RunOptions
from indexfuzz.core.presets import PRESETS
from indexfuzz.core.setup import Setup
from indexfuzz.corpus.store import known_signatures

if TYPE_CHECKING:
    from indexfuzz.campaign.settings import Settings
    from indexfuzz.cli.progress import Progress
    from indexfuzz.subjects.subject import Subject

DEFAULT_SECONDS = 60.0


@expand_options
def run(options: RunOptions) -> None:
    """Draw cases, run them on the kernels, compare with the reference; keep a minimal case of every new finding.

    Without --seconds and --cases it takes 60 seconds; with a --fault it ends as soon as that is found. The exit code
    is 0 when nothing new was found, 1 when something was.

    Example: `indexfuzz run --seconds 60` fuzzes the built-in kernels for a minute,
    `indexfuzz run --impl vllm:vllm-0.22.0.whl --stage gather` tests vLLM's gather,
    `indexfuzz run --fault rope-result-discarded` shows what a finding looks like,
    `indexfuzz run --impl module:my_kernels --python other/bin/python` runs them under another interpreter,
    `indexfuzz run --cases 200 --coverage` shows what the cases leave untried in the kernels.
    """
    options.check()
    setup = options.setup()
    target, covered = covering(setup) if options.coverage else (under_test(setup), None)

    from indexfuzz.campaign.loop import Campaign
    from indexfuzz.cli.progress import Progress
    from indexfuzz.cli.report import as_data, print_summary

    kept = options.corpus or default_corpus(options.faults)
    settings = build_settings(options, target.subject, kept)
    first_only = bool(options.faults) and options.seconds is None and options.cases is None
    progress = Progress(settings, target, options.out or kept, console(err=options.as_json), first_only=first_only)
    with progress, _journaled(settings, setup, progress) as settings, interrupted_by_sigterm():
        summary = Campaign(settings, progress.listen).run()
    if progress.stopped_itself:
        summary.interrupted = False
    if options.as_json:
        data = as_data(summary, progress.saved, settings, target)
        typer.echo(json.dumps(data | ({"coverage": covered.as_data()} if covered else {}), indent=1))
    else:
        print_summary(summary, progress.saved, target, console())
        if covered:
            console().print(f"\n{covered.report()}")
    if covered and options.coverage_listing:
        write_listing(covered, options.coverage_listing)
    if summary.findings:
        raise typer.Exit(FINDINGS)
    raise typer.Exit(INTERNAL_ERROR if summary.unsupported and not summary.cases else NOTHING_NEW)


def build_settings(options: RunOptions, subject: "Subject", corpus: Path) -> "Settings":
    """What a campaign shall do with a subject, from what was typed; known findings are those of a corpus."""
    from indexfuzz.campaign.settings import Settings

    return Settings(
        subject,
        only=frozenset(options.stages),
        preset=PRESETS[options.preset] if options.preset else None,
        values=options.regimes,
        seconds=DEFAULT_SECONDS if options.seconds is None and options.cases is None else options.seconds,
        cases=options.cases,
        seed=secrets.randbelow(1 << 32) if options.seed is None else options.seed,
        shard=options.parsed_shard,
        known=known_signatures(corpus, subject.facts.name),
    )


@contextmanager
def _journaled(settings: "Settings", setup: Setup, progress: "Progress") -> "Iterator[Settings]":
    """Keep the case in flight on disk, and tell of those of runs that died."""
    from indexfuzz.subjects.journal import Journal, Journaled, left_behind

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
        yield replace(settings, subject=Journaled(settings.subject, journal))
