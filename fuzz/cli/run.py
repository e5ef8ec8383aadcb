"""The command `run`: a campaign with live progress."""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from indexfuzz.cli.common import (
    FINDINGS,
    INTERNAL_ERROR,
    NOTHING_NEW,
    AsJson,
    BeyondContract,
    DeviceName,
    Faults,
    Impl,
    InputError,
    Isolate,
    Python,
    Timeout,
    console,
    default_corpus,
    each_known,
    interrupted_by_sigterm,
    under_test,
)
from indexfuzz.cli.coverage import covering, write_listing
from indexfuzz.core.case import Regime
from indexfuzz.core.presets import PRESETS
from indexfuzz.core.setup import DEFAULT_DEVICE, DEFAULT_IMPLEMENTATION, Setup
from indexfuzz.corpus import store as corpus_files
from indexfuzz.corpus.entry import STAGES
from indexfuzz.testing.options import parse_shard

if TYPE_CHECKING:
    from indexfuzz.campaign.settings import Settings
    from indexfuzz.cli.progress import Progress

DEFAULT_SECONDS = 60.0


def run(
    *,
    faults: Faults,
    stage: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            default_factory=list,
            show_default="all that the implementation has",
            help=f"Test only this stage; repeat for several. One of {', '.join(sorted(STAGES))}.",
        ),
    ],
    values: Annotated[
        list[str],
        typer.Option(
            metavar="REGIME",
            default_factory=list,
            show_default="all but nonfinite",
            help=f"Draw values of this kind only; repeat for several. One of {', '.join(get_args(Regime))}.",
        ),
    ],
    impl: Impl = DEFAULT_IMPLEMENTATION,
    device: DeviceName = DEFAULT_DEVICE,
    beyond_contract: BeyondContract = False,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Take the model's shape from this one: {', '.join(PRESETS)}.",
            show_default="any shape",
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="S", show_default="60", help="Stop after this time."),
    ] = None,
    cases: Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after this many cases.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="N", show_default="random", help="Makes a run repeatable.")
    ] = None,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Be worker I of N: each of them tries cases of its own.")
    ] = "1/1",
    corpus: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default="corpus/ of the checkout, else of this folder",
            help="Findings kept here are known and do not count; new ones are written here.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", show_default="--corpus", help="Write new findings here instead.")
    ] = None,
    coverage: Annotated[
        bool,
        typer.Option(
            "--coverage",
            help="After the summary, list the masks and branches of the kernels that "
            "were never true, never false, never mixed or never taken.",
        ),
    ] = False,
    coverage_listing: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="With --coverage: also write the kernels' source here, every line marked.",
        ),
    ] = None,
    isolate: Isolate = None,
    python: Python = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Draw cases, run them on the kernels, compare with the reference; keep a minimal case of every new finding.

    Without --seconds and --cases it takes 60 seconds; with a --fault it ends as soon as that is found. The exit code
    is 0 when nothing new was found, 1 when something was.

    Example: `indexfuzz run --seconds 60` fuzzes the built-in kernels for a minute,
    `indexfuzz run --impl vllm:vllm-0.22.0.whl --stage gather` tests vLLM's gather,
    `indexfuzz run --fault rope-result-discarded` shows what a finding looks like,
    `indexfuzz run --impl module:my_kernels --python other/bin/python` runs them under another interpreter,
    `indexfuzz run --cases 200 --coverage` shows what the cases leave untried in the kernels.
    """
    if seconds is not None and cases is not None:
        raise InputError("--seconds and --cases exclude each other; give one of them")
    only = each_known("--stage", stage, STAGES)
    regimes = each_known("--values", values, get_args(Regime))
    try:
        worker = parse_shard(shard)
    except ValueError as error:
        raise InputError(f"--shard: {error}") from None
    if preset is not None:
        each_known("--preset", [preset], PRESETS)
    if coverage_listing is not None and not coverage:
        raise InputError("--coverage-listing needs --coverage")
    setup = Setup(impl, device, tuple(faults), beyond_contract, isolate, python, timeout)
    target, covered = covering(setup) if coverage else (under_test(setup), None)

    from indexfuzz.campaign.loop import Campaign  # noqa: PLC0415 - imports torch
    from indexfuzz.campaign.settings import Settings  # noqa: PLC0415
    from indexfuzz.cli.progress import Progress  # noqa: PLC0415
    from indexfuzz.cli.report import as_data, print_summary  # noqa: PLC0415

    kept = corpus or default_corpus()
    settings = Settings(
        target.subject,
        only=frozenset(only),
        preset=PRESETS[preset] if preset else None,
        values=tuple(regimes),  # type: ignore[arg-type]
        seconds=DEFAULT_SECONDS if seconds is None and cases is None else seconds,
        cases=cases,
        seed=secrets.randbelow(1 << 32) if seed is None else seed,
        shard=worker,
        known=corpus_files.known_signatures(kept, target.subject.facts.name),
    )
    first_only = bool(faults) and seconds is None and cases is None
    progress = Progress(settings, target, out or kept, console(err=as_json), first_only=first_only)
    with progress, _journaled(settings, setup, progress) as settings, interrupted_by_sigterm():
        summary = Campaign(settings, progress.listen).run()
    if progress.stopped_itself:
        summary.interrupted = False
    if as_json:
        data = as_data(summary, progress.saved, settings, target)
        typer.echo(json.dumps(data | ({"coverage": covered.as_data()} if covered else {}), indent=1))
    else:
        print_summary(summary, progress.saved, target, console())
        if covered:
            console().print(f"\n{covered.report()}")
    if covered and coverage_listing:
        write_listing(covered, coverage_listing)
    if summary.findings:
        raise typer.Exit(FINDINGS)
    raise typer.Exit(INTERNAL_ERROR if summary.unsupported and not summary.cases else NOTHING_NEW)


@contextmanager
def _journaled(settings: "Settings", setup: Setup, progress: "Progress") -> "Iterator[Settings]":
    """Keep the case in flight on disk, and tell of those of runs that died."""
    from indexfuzz.subjects.journal import Journal, Journaled, left_behind  # noqa: PLC0415 - imports torch

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
