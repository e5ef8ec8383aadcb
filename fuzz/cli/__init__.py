"""The command line: `indexfuzz COMMAND --help` explains each command.

Exit codes: 0 nothing new, 1 findings, 2 wrong usage or bad input, 3 an error in IndexFuzz itself.
"""

import errno
import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from indexfuzz import __version__
from indexfuzz.cli import (
    cases,
    compiled,
    fleet,
    html_report,
    lists,
    merge,
    mutate,
    new_ci,
    new_impl,
    prune,
    replay,
    run,
    severity,
    triage,
)
from indexfuzz.cli.common import INTERNAL_ERROR, NOTHING_NEW, USAGE_ERROR, InputError
from indexfuzz.cli.help import Command, Group
from indexfuzz.cli.streams import forgiving_streams
from indexfuzz.core import interrupts
from indexfuzz.core.project import Project
from indexfuzz.core.setup import SetupError
from indexfuzz.corpus.entry import CorpusError

GROUPS: dict[str, tuple[Callable[..., None], ...]] = {
    "Find bugs": (run.run, fleet.fleet, replay.replay),
    "Look into a finding": (
        cases.show,
        cases.minimize,
        cases.repro,
        severity.severity,
        html_report.report,
        triage.triage,
    ),
    "Keep what was found": (merge.merge, prune.prune),
    "Put kernels under test": (new_impl.new_impl, new_ci.new_ci, compiled.compile, lists.impls, lists.presets),
    "Measure IndexFuzz itself": (lists.faults, lists.bench, mutate.mutate),
}
"""Heading in the help -> the commands below it."""

app = typer.Typer(
    name="indexfuzz",
    help="Find bugs in the FP8 kernels of sparse-attention indexers, on a CPU, and keep a minimal case of each.\n\n"
    "Start with `indexfuzz run`. A project's defaults stand in the table [tool.indexfuzz] of its pyproject.toml.",
    cls=Group,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for heading, commands in GROUPS.items():
    for command in commands:
        app.command(cls=Command, rich_help_panel=heading)(command)

_FULL = (errno.ENOSPC, errno.EDQUOT)
"""A disk that is full is nobody's defect."""


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer's callback
    if wanted:
        typer.echo(f"indexfuzz {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(USAGE_ERROR)
    context.default_map = _defaults(Project.here())


def _defaults(project: Project) -> dict[str, Any]:
    """Command -> the options that a project's settings give it; some run nothing unless told on what."""
    table = project.table
    given = {"impl": project.impl, "device": table.device, "timeout": table.timeout, "values": table.values}
    names = (command.__name__.replace("_", "-") for commands in GROUPS.values() for command in commands)
    return {name: given for name in names if name not in ("show", "report", "merge", "new-ci")}


def run_command() -> int:
    """Run the command that the words name, and give its exit code; whatever goes wrong is told in one line."""
    with forgiving_streams():
        return _run()


def _run() -> int:
    try:
        with interrupts.unmasked():
            return int(app(prog_name="indexfuzz", standalone_mode=False) or NOTHING_NEW)
    except interrupts.Interrupted as interrupted:
        typer.echo(f"interrupted by {interrupted}", err=True)
        return interrupted.exit_code
    except Exception as error:  # noqa: BLE001 - somebody's mistake or ours
        if message := _usage_error(error) or _bad_input(error):
            return _tell_error(f"error: {message}", USAGE_ERROR)
        where = f"(traceback in {_write_traceback()})"
        return _tell_error(f"internal error: {type(error).__name__}: {error} {where}", INTERNAL_ERROR)


def _usage_error(error: Any) -> str:
    """One line for what cannot be parsed, and where help is; empty for other errors."""
    if not hasattr(error, "format_message"):
        return ""
    message = " ".join(str(error.format_message()).split()).rstrip(".")
    command = error.ctx.command_path if getattr(error, "ctx", None) else "indexfuzz"
    return f"{message}; see `{command} --help`"


def _bad_input(error: Exception) -> str:
    """The message of an error about what the user gave, which is all that they need; empty for other errors."""
    from indexfuzz.implementations.base import ImplementationError

    if isinstance(error, OSError) and error.errno in _FULL:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part)
    return str(error) if isinstance(error, InputError | SetupError | CorpusError | ImplementationError) else ""


def _tell_error(message: str, code: int) -> int:
    """Say what went wrong, for scripts as JSON on standard output, and give the exit code back."""
    if "--json" in sys.argv:
        typer.echo(json.dumps({"error": message.removeprefix("error: "), "exit_code": code}))
    typer.echo(message, err=True)
    return code


def _write_traceback() -> Path:
    """Write the present exception's traceback to a file of its own."""
    with tempfile.NamedTemporaryFile("w", prefix="indexfuzz-", suffix=".log", delete=False, encoding="utf-8") as file:
        traceback.print_exc(file=file)
    return Path(file.name)
