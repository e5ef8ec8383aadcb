"""The options of the command `fleet`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indexfuzz.cli.common import InputError
from indexfuzz.cli.options import AsJson
from indexfuzz.cli.run_options import CaseOptions

if TYPE_CHECKING:
    from indexfuzz.fleet.needs import Needs

DEFAULT_SECONDS = 60.0

SLICES_A_PLACE = 4
"""Slices for each that can run at the same time, unless told otherwise: enough for budgets to move."""


@dataclass(frozen=True, kw_only=True)
class FleetOptions(CaseOptions):
    """What a fleet shall do, as typed."""

    shared: Annotated[
        str,
        typer.Option(
            rich_help_panel="Where findings are",
            metavar="URL",
            help="The folder that all machines share, as fsspec knows it: a path, s3://bucket/folder, ... What its "
            "corpus has is known, new findings and the merged log come there.",
        ),
    ]
    slices: Annotated[
        int | None,
        typer.Option(
            rich_help_panel="How long",
            min=1,
            metavar="N",
            show_default=f"{SLICES_A_PLACE} for each that can run at once",
            help="Run so many slices, each with cases of its own.",
        ),
    ] = None
    slice_seconds: Annotated[
        float | None,
        typer.Option(
            rich_help_panel="How long",
            min=0.0,
            metavar="S",
            show_default=f"{DEFAULT_SECONDS:.0f}",
            help="How long a slice takes.",
        ),
    ] = None
    slice_cases: Annotated[
        int | None,
        typer.Option(rich_help_panel="How long", min=1, metavar="N", help="End a slice after this many cases instead."),
    ] = None
    address: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="On which machines",
            metavar="HOST:PORT",
            show_default="RAY_ADDRESS, else this machine alone",
            help="The Ray cluster; auto is the one that this machine is part of.",
        ),
    ] = None
    parallel: Annotated[
        int | None,
        typer.Option(
            rich_help_panel="On which machines",
            min=1,
            metavar="N",
            show_default="as many as there is room for",
            help="Expect so many slices to run at once: what a cluster that grows when it is needed can become.",
        ),
    ] = None
    gpus: Annotated[
        float | None,
        typer.Option(
            rich_help_panel="On which machines",
            min=0.0,
            metavar="N",
            show_default="1 with --device cuda, else none",
            help="GPUs for a slice; several slices share one where it is a part, such as 0.25.",
        ),
    ] = None
    accelerator: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="On which machines",
            metavar="TYPE",
            show_default="any",
            help="Run slices only where there is a GPU of this type, as Ray names it, such as H100.",
        ),
    ] = None
    retries: Annotated[
        int,
        typer.Option(
            rich_help_panel="On which machines",
            min=0,
            metavar="N",
            help="How often a slice is tried again whose process or machine died.",
        ),
    ] = 3
    working_dir: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel="On which machines",
            metavar="DIR",
            show_default="nothing",
            help="Send this folder to all machines, such as that of the module with the kernels.",
        ),
    ] = None
    as_json: AsJson = False

    def check(self) -> None:
        """Raise InputError where the options contradict each other or name what there is not."""
        self.check_cases()
        if self.slice_seconds is not None and self.slice_cases is not None:
            raise InputError("--slice-seconds and --slice-cases exclude each other; give one of them")
        if self.slice_seconds == 0:
            raise InputError("--slice-seconds: 0 s is no time to test in; give a number above 0")
        if self.working_dir is not None and not self.working_dir.is_dir():
            raise InputError(f"--working-dir {self.working_dir}: no such folder")

    @property
    def seconds_each(self) -> float | None:
        """For how long a slice runs; None where its cases are counted."""
        return self.slice_seconds or (DEFAULT_SECONDS if self.slice_cases is None else None)

    @property
    def needs(self) -> "Needs":
        """What a slice needs of a machine."""
        from indexfuzz.fleet.needs import Needs

        gpus = float(self.device.startswith("cuda")) if self.gpus is None else self.gpus
        interpreted = (("TRITON_INTERPRET", "1"),) if self.device == "interpreter" else ()
        return Needs(gpus, self.accelerator, self.retries, self.working_dir, interpreted)
