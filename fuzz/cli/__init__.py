"""The command line: `indexfuzz COMMAND --help` explains each command.

Exit codes: 0 nothing new, 1 findings, 2 wrong usage or bad input, 3 an error in IndexFuzz itself.
"""

import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from indexfuzz import __version__
from indexfuzz.cli import cases, lists, mutate, new_impl, replay, run, severity, triage
from indexfuzz.cli.common import INTERNAL_ERROR, USAGE_ERROR, InputError
from indexfuzz.core import interrupts
from indexfuzz.core.project import Project
from indexfuzz.core.setup import SetupError
from indexfuzz.corpus.entry import CorpusError

GROUPS: dict[str, tuple[Callable[..., None], ...]] = {
    "Find bugs": (run.run, replay.replay),
    "Look into a finding": (cases.show, cases.minimize, cases.repro, severity.severity, triage.triage),
    "Put kernels under test": (new_impl.new_impl, lists.impls, lists.presets),
    "Measure IndexFuzz itself": (lists.faults, lists.bench, mutate.mutate),
}
"""Heading in the help -> the commands below it."""

app = typer.Typer(
    name="indexfuzz",
    help="Find bugs in the FP8 kernels of sparse-attention indexers, on a CPU, and keep a minimal case of each.\n\n"
    "Start with `indexfuzz run`. A project's defaults stand in the table [tool.indexfuzz] of its pyproject.toml.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for heading, commands in GROUPS.items():
    for command in commands:
        app.command(rich_help_panel=heading)(command)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer's callback
    if wanted:
        typer.echo(f"indexfuzz {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    context.default_map = _defaults(Project.here())


def _defaults(project: Project) -> dict[str, Any]:
    """Command -> the options that a project's settings give it."""
    table = project.table
    given = {"impl": project.impl, "device": table.device, "timeout": table.timeout, "values": table.values}
    names = (command.__name__.replace("_", "-") for commands in GROUPS.values() for command in commands)
    return dict.fromkeys(names, given)


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        with interrupts.listening():
            app()
    except interrupts.Interrupted as interrupted:
        typer.echo(f"interrupted by {interrupted}", err=True)
        sys.exit(interrupted.exit_code)
    except Exception as error:  # noqa: BLE001 - whatever else goes wrong is told in one line
        if _is_bad_input(error):
            _tell_error(str(error), USAGE_ERROR)
        _tell_error(
            f"internal error: {type(error).__name__}: {error} (traceback in {_write_traceback()})", INTERNAL_ERROR
        )


def _tell_error(message: str, code: int) -> None:
    """Say what went wrong, for scripts as JSON on standard output, and exit.

    Raises SystemExit.
    """
    if "--json" in sys.argv:
        typer.echo(json.dumps({"error": message, "exit_code": code}))
    typer.echo(message if code == INTERNAL_ERROR else f"error: {message}", err=True)
    sys.exit(code)


def _is_bad_input(error: Exception) -> bool:
    """Whether an error is about what the user gave: its message is all that they need."""
    if isinstance(error, InputError | SetupError | CorpusError):
        return True
    from indexfuzz.implementations.base import ImplementationError

    return isinstance(error, ImplementationError)


def _write_traceback() -> Path:
    """Write the present exception's traceback to a file of its own."""
    with tempfile.NamedTemporaryFile("w", prefix="indexfuzz-", suffix=".log", delete=False, encoding="utf-8") as file:
        traceback.print_exc(file=file)
    return Path(file.name)
