"""The command line: `indexfuzz COMMAND --help` explains each command.

Exit codes: 0 nothing new, 1 findings, 2 wrong usage or bad input, 3 an error in IndexFuzz itself.
"""

import sys
import tempfile
import traceback
from pathlib import Path
from typing import Annotated

import typer

from indexfuzz import __version__
from indexfuzz.cli import cases, lists, mutate, new_impl, replay, run, severity
from indexfuzz.cli.common import INTERNAL_ERROR, USAGE_ERROR, InputError
from indexfuzz.core.setup import SetupError
from indexfuzz.corpus.entry import CorpusError

app = typer.Typer(
    name="indexfuzz",
    help="Find bugs in the FP8 kernels of sparse-attention indexers, on a CPU, and keep a minimal case of each.\n\n"
    "Start with `indexfuzz run`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    run.run,
    replay.replay,
    cases.minimize,
    cases.repro,
    cases.show,
    severity.severity,
    lists.impls,
    new_impl.new_impl,
    lists.faults,
    lists.presets,
    lists.bench,
    mutate.mutate,
):
    app.command()(command)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer's callback
    if wanted:
        typer.echo(f"indexfuzz {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        app()
    except Exception as error:  # noqa: BLE001 - the last line of defence
        if _is_bad_input(error):
            typer.echo(f"error: {error}", err=True)
            sys.exit(USAGE_ERROR)
        typer.echo(f"internal error: {type(error).__name__}: {error} (traceback in {_write_traceback()})", err=True)
        sys.exit(INTERNAL_ERROR)


def _is_bad_input(error: Exception) -> bool:
    """Whether an error is about what the user gave: its message is all that they need."""
    if isinstance(error, InputError | SetupError | CorpusError):
        return True
    from indexfuzz.implementations.base import ImplementationError  # noqa: PLC0415 - imports torch

    return isinstance(error, ImplementationError)


def _write_traceback() -> Path:
    """Write the present exception's traceback to a file of its own."""
    with tempfile.NamedTemporaryFile("w", prefix="indexfuzz-", suffix=".log", delete=False, encoding="utf-8") as file:
        traceback.print_exc(file=file)
    return Path(file.name)
