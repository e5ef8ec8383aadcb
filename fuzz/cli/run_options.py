"""The options of the command `run`."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

import typer
from pydantic import TypeAdapter

from indexfuzz.campaign.chunk import CHUNK
from indexfuzz.cli.common import InputError, default_corpus, each_known
from indexfuzz.cli.options import AsJson, SetupOptions
from indexfuzz.core.case_parts import Regime
from indexfuzz.core.presets import PRESETS
from indexfuzz.core.stage_names import OPERATION_NAMES
from indexfuzz.testing.options import parse_shard

MOST_ON_A_GPU = 16
"""Processes of a run that share a GPU, unless more are asked for: each takes half a gigabyte of it for itself."""


@dataclass(frozen=True, kw_only=True)
class CaseOptions(SetupOptions):
    """Which cases a campaign shall draw, as typed."""

    stage: Annotated[
        list[str],
        typer.Option(
            rich_help_panel="Which cases",
            metavar="NAME",
            default_factory=list,
            show_default="all that the implementation has",
            help="Test only this stage, fused operation or operation with a state; repeat for several. "
            f"One of {', '.join(OPERATION_NAMES)}.",
        ),
    ]
    values: Annotated[
        list[str],
        typer.Option(
            rich_help_panel="Which cases",
            metavar="REGIME",
            default_factory=list,
            show_default="all but nonfinite",
            help=f"Draw values of this kind only; repeat for several. One of {', '.join(get_args(Regime))}.",
        ),
    ]
    preset: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="Which cases",
            metavar="NAME",
            help=f"Take the model's shape from this one: {', '.join(PRESETS)}.",
            show_default="any shape",
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(
            rich_help_panel="Which cases", min=0, metavar="N", show_default="random", help="Makes a run repeatable."
        ),
    ] = None

    def check_cases(self) -> None:
        """Raise InputError where the options name what there is not."""
        if self.preset is not None:
            each_known("--preset", [self.preset], PRESETS)
        self.stages, self.regimes  # noqa: B018 - raise for what they cannot read

    @property
    def stages(self) -> list[str]:
        """The stages to test; none means all."""
        return each_known("--stage", self.stage, OPERATION_NAMES)

    @property
    def regimes(self) -> tuple[Regime, ...]:
        """The kinds of values to draw; none means the usual ones."""
        return TypeAdapter(tuple[Regime, ...]).validate_python(each_known("--values", self.values, get_args(Regime)))


@dataclass(frozen=True, kw_only=True)
class RunOptions(CaseOptions):
    """What a campaign shall do, as typed."""

    seconds: Annotated[
        float | None,
        typer.Option(
            rich_help_panel="How long",
            min=0.0,
            metavar="S",
            show_default="60",
            help="Stop so long after the first case.",
        ),
    ] = None
    cases: Annotated[
        int | None, typer.Option(rich_help_panel="How long", min=1, metavar="N", help="Stop after this many cases.")
    ] = None
    shard: Annotated[
        str,
        typer.Option(
            rich_help_panel="Which cases", metavar="I/N", help="Be worker I of N: each of them tries cases of its own."
        ),
    ] = "1/1"
    workers: Annotated[
        int | None,
        typer.Option(
            rich_help_panel="How long",
            min=1,
            metavar="N",
            show_default=f"all cores; with a GPU {MOST_ON_A_GPU} at most",
            help="Run cases in so many processes. The cases of a --seed, and what they show, do not depend on it.",
        ),
    ] = None
    corpus: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel="Where findings are",
            metavar="DIR",
            show_default="that of the project, else corpus/ of this folder",
            help="Findings kept here are known and do not count; new ones are written here.",
        ),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel="Where findings are",
            metavar="DIR",
            show_default="--corpus",
            help="Write new findings here instead.",
        ),
    ] = None
    log: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel="Where findings are",
            metavar="FILE",
            show_default=False,
            help="Write all that happens here, one JSON object a line; docs/run-log.schema.json describes them.",
        ),
    ] = None
    coverage: Annotated[
        bool,
        typer.Option(
            "--coverage",
            rich_help_panel="Coverage",
            help="After the summary, list the masks and branches of the kernels that "
            "were never true, never false, never mixed or never taken.",
        ),
    ] = False
    coverage_listing: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel="Coverage",
            metavar="FILE",
            show_default=False,
            help="With --coverage: also write the kernels' source here, every line marked.",
        ),
    ] = None
    keep_coverage: Annotated[
        bool,
        typer.Option(
            "--keep-coverage",
            rich_help_panel="Coverage",
            help="Keep each case that passes and reaches a mask, branch or class that none did before, as a guard in "
            "--corpus; `indexfuzz prune` then leaves the fewest.",
        ),
    ] = False
    as_json: AsJson = False

    def check(self) -> None:
        """Raise InputError where the options contradict each other or name what there is not."""
        if self.seconds is not None and self.cases is not None:
            raise InputError("--seconds and --cases exclude each other; give one of them")
        self.check_cases()
        if self.coverage_listing is not None and not self.coverage:
            raise InputError("--coverage-listing needs --coverage")
        if self.coverage and self.keep_coverage:
            raise InputError("--coverage and --keep-coverage exclude each other; give one of them")
        if self.keep_coverage and (self.isolate or self.python):
            raise InputError(
                "--keep-coverage sees what is reached without isolation only; leave out --isolate, --python"
            )
        if self.coverage and (self.workers or 1) > 1:
            raise InputError("--coverage sees the masks of one process; leave out --workers")
        if self.sanitize and (self.workers or 1) > 1:
            raise InputError("--sanitize looks at one process; leave out --workers")
        self.parsed_shard  # noqa: B018 - raises for what it cannot read

    @property
    def parsed_shard(self) -> tuple[int, int]:
        """I and N."""
        try:
            return parse_shard(self.shard)
        except ValueError as error:
            raise InputError(f"--shard: {error}") from None

    @property
    def kept(self) -> Path:
        """The folder of known findings.

        Raises SetupError when the project's settings cannot be read.
        """
        return self.corpus or default_corpus(self.faults)

    @property
    def first_only(self) -> bool:
        """Whether the first finding ends the run: that of a planted bug, unless told how long to look."""
        return bool(self.faults) and self.seconds is None and self.cases is None

    @property
    def processes(self) -> int:
        """How many processes run cases: every core, unless one is asked for or enough."""
        if self.coverage or self.sanitize or (self.workers is None and self.first_only):
            return 1
        most = MOST_ON_A_GPU if self.device.startswith("cuda") else math.inf
        chunks = math.inf if self.cases is None else math.ceil(self.cases / CHUNK)
        return int(min(self.workers or min(available_cores(), most), chunks))


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
