"""The command `run`: a campaign with live progress."""

import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from indexfuzz.campaign.keeping import Keeper, probe
from indexfuzz.campaign.server import start_server
from indexfuzz.cli.common import (
    FINDINGS,
    NOTHING_NEW,
    USAGE_ERROR,
    InputError,
    console,
    make_folder_of,
    under_test,
)
from indexfuzz.cli.coverage import covering, reaching_target, write_listing
from indexfuzz.cli.options import expand_options
from indexfuzz.cli.run_options import RunOptions
from indexfuzz.core import interrupts
from indexfuzz.core.presets import PRESETS
from indexfuzz.core.setup import Setup
from indexfuzz.corpus.entry import Entry
from indexfuzz.corpus.store import Corpus, open_signatures

if TYPE_CHECKING:
    from indexfuzz.campaign.events import Event
    from indexfuzz.campaign.log import RunLog
    from indexfuzz.campaign.pool import Pool
    from indexfuzz.campaign.settings import Settings
    from indexfuzz.campaign.summary import Summary
    from indexfuzz.cli.progress import Progress
    from indexfuzz.core.signature import Signature
    from indexfuzz.devices.base import MaskCoverage
    from indexfuzz.report.github import Shown
    from indexfuzz.subjects.journal import Journal
    from indexfuzz.subjects.subject import Subject
    from indexfuzz.subjects.under_test import UnderTest

DEFAULT_SECONDS = 60.0


@expand_options
def run(options: RunOptions) -> None:
    """Draw cases, run them on the kernels, compare with the reference; keep a minimal case of every new finding.

    Without --seconds and --cases it takes 60 seconds; with a --fault it ends as soon as that is found. The exit code
    is 0 when nothing new was found, 1 when something was, 2 when no stage could be tried, or not each that --stage
    names, and 130 or 143 after Ctrl-C or SIGTERM when nothing was found. Making cases smaller takes at most half of
    --seconds, and what was found at the end a fifth of it longer.

    Example: `indexfuzz run --seconds 60` fuzzes the built-in kernels for a minute,
    `indexfuzz run --impl vllm:vllm-0.22.0.whl --stage gather` tests vLLM's gather,
    `indexfuzz run --fault rope-result-discarded` shows what a finding looks like,
    `indexfuzz run --impl module:my_kernels --python other/bin/python` runs them under another interpreter,
    `indexfuzz run --cases 200 --coverage` shows what the cases leave untried in the kernels.
    """
    options.check()
    _probe(options.out or options.kept)
    known = _known_entries(options.kept)
    setup, processes = options.setup(), options.processes
    if processes > 1:
        start_server()
    target, covered = _open(setup, options)
    _require_stages(options.stages, target.subject)

    interrupts.check()
    settings = build_settings(options, setup, target.subject, known)
    reached = _reached(known, target.subject) if options.keep_coverage else None
    summary, saved = _run_campaign(settings, target, options, processes, reached)
    _report(summary, saved, settings, target, options, covered)
    raise typer.Exit(_exit_code(summary, options.stages))


def _open(setup: Setup, options: RunOptions) -> "tuple[UnderTest[Subject], MaskCoverage | None]":
    """What is under test, and what accumulates its coverage where that is asked for.

    Raises SetupError, and InputError where masks cannot be seen.
    """
    if options.coverage:
        return covering(setup)
    if options.keep_coverage:
        return reaching_target(setup), None
    return under_test(setup), None


def _require_stages(wanted: list[str], subject: "Subject") -> None:
    """Raise InputError for a stage that is to be tested and that what is under test does not have."""
    facts = subject.facts
    for stage in wanted:
        if stage not in facts.stages:
            raise InputError(f"--stage {stage}: {facts.name} has no such stage; it has {', '.join(facts.stages)}")


def _run_campaign(
    settings: "Settings",
    target: "UnderTest[Subject]",
    options: RunOptions,
    processes: int,
    reached: frozenset[str] | None,
) -> "tuple[Summary, dict[Signature, Path]]":
    """Run a campaign that is shown, logged and kept; what it did, and the files of its findings.

    Cases that reach more than `reached` are kept as guards, unless that is None.
    """
    from indexfuzz.campaign.crew import Alone
    from indexfuzz.campaign.guarding import GuardKeeper
    from indexfuzz.campaign.loop import Campaign
    from indexfuzz.cli.progress import Progress

    progress = Progress(settings, target, console(err=options.as_json))
    keeper = Keeper(target.entry, options.out or options.kept, progress.tell)
    with ExitStack() as stack:
        log = stack.enter_context(_open_log(options.log, progress.tell)) if options.log else None
        stack.enter_context(progress)
        journal = stack.enter_context(_journaled(target.setup, progress))
        settings = replace(settings, before_case=journal.note if journal else settings.before_case)
        crew = Alone(settings) if processes == 1 else _pool(settings, target.setup, processes, journal is not None)
        guards = GuardKeeper(options.kept, reached, progress.tell) if reached is not None else None
        progress.watch(crew)
        if log:
            log.start_of(settings, processes, options.out or options.kept)

        def listen(event: "Event") -> None:
            keeper.hear(event)
            if guards:
                guards.hear(event)
            if log:
                log.hear(event)
            progress.listen(event)

        summary = Campaign(settings, listen, crew).run()
        if log:
            log.end(summary)
    if guards:
        progress.tell(f"kept {guards.kept} cases that reached something new in {options.kept}")
    return summary, keeper.saved


def _pool(settings: "Settings", setup: Setup, processes: int, is_journaled: bool) -> "Pool":  # noqa: FBT001
    """Processes that draw what the settings say."""
    from indexfuzz.campaign.member import Hire
    from indexfuzz.campaign.pool import Pool
    from indexfuzz.subjects.reaching import Reaching

    drawing = {name: getattr(settings, name) for name in ("only", "preset", "values", "seed", "shard")}
    return Pool(Hire(setup, is_journaled, isinstance(settings.subject, Reaching), drawing), processes)


def _reached(entries: list[Entry], subject: "Subject") -> frozenset[str]:
    """What the guards among the kept cases reach: nothing of that is new."""
    from indexfuzz.campaign.guarding import run_guard

    guards = (run_guard(entry, subject) for entry in entries if entry.status == "guard")
    return frozenset[str]().union(*(guard.reached for guard in guards))


def _open_log(path: Path, notice: Callable[[str], None]) -> "RunLog":
    from indexfuzz.campaign.log import RunLog

    try:
        make_folder_of(path)
        return RunLog(path, notice)
    except OSError as error:
        raise InputError(f"--log {path}: {error.strerror}") from None


def _report(
    summary: "Summary",
    saved: "dict[Signature, Path]",
    settings: "Settings",
    target: "UnderTest[Subject]",
    options: RunOptions,
    covered: "MaskCoverage | None",
) -> None:
    """Print what was tried and found, as text or JSON, and show it where GitHub runs this."""
    from indexfuzz.cli.report import as_data, print_summary, print_unturned
    from indexfuzz.report.github import publish

    if options.as_json:
        data = as_data(summary, saved, settings, target)
        typer.echo(json.dumps(data | ({"coverage": covered.as_data()} if covered else {}), indent=1))
    else:
        print_summary(summary, saved, target, console(), settings.only)
        if covered:
            console().print(f"\n{covered.report()}")
            print_unturned(summary.goals, console())
    if covered and options.coverage_listing:
        write_listing(covered, options.coverage_listing)
    facts = settings.subject.facts
    tried = f"IndexFuzz: {facts.name} on {facts.device}, {summary.cases} cases, seed {settings.seed}"
    publish(tried, _shown(summary, saved, target), os.environ, sys.stderr)


def _shown(summary: "Summary", saved: "dict[Signature, Path]", target: "UnderTest[Subject]") -> "Iterator[Shown]":
    """The findings with the lines that they come from, for as many as are shown there."""
    from indexfuzz.report.github import MOST_ANNOTATIONS, Shown
    from indexfuzz.triage.blame import find_blamed

    for number, found in enumerate(summary.findings):
        finding, location = found.finding, found.finding.location
        if not location and number < MOST_ANNOTATIONS:
            location = find_blamed(found.case, finding.signature, target.setup)
        path = saved.get(finding.signature, Path())
        again = target.command("replay", path)
        yield Shown(str(finding.signature), finding.detail, location, str(path), again)


def _exit_code(summary: "Summary", wanted: list[str]) -> int:
    """Green means that something was tried, all stages that were named among it, and nothing was found."""
    if summary.findings or summary.deaths:
        return FINDINGS
    if summary.interrupted:
        return interrupts.Interrupted(summary.interrupted).exit_code
    if not summary.stages or not summary.stages.keys() >= set(wanted):
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
    from indexfuzz.subjects.in_lockstep import tell_of_lockstep

    return Settings(
        subject,
        only=frozenset(options.stages),
        preset=PRESETS[options.preset] if options.preset else None,
        values=options.regimes,
        seconds=DEFAULT_SECONDS if options.seconds is None and options.cases is None else options.seconds,
        cases=options.cases,
        seed=secrets.randbelow(1 << 32) if options.seed is None else options.seed,
        shard=options.parsed_shard,
        first_only=options.first_only,
        known=open_signatures(kept, subject.facts.name),
        confirm=partial(shows_in_fresh_process, setup),
        elsewhere=partial(tell_of_lockstep, setup),
    )


@contextmanager
def _journaled(setup: Setup, progress: "Progress") -> "Iterator[Journal | None]":
    """Keep the case in flight on disk, where that works, and tell of those of runs that died."""
    from indexfuzz.subjects.journal import Journal, bury_dead_runs

    try:
        for line in bury_dead_runs():
            progress.tell(line)
        journal = Journal(partial(setup.command, "replay"))
        journal.open()
    except OSError as error:
        progress.tell(f"the case in flight is not kept: cannot write to {error.filename}: {error.strerror}")
        yield None
        return
    with journal:
        yield journal
