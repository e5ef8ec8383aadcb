"""The command `triage`: say what became of a kept case."""

from typing import Annotated, get_args

import typer
from pydantic import ValidationError

from indexfuzz.cli.common import InputError, console, find_one
from indexfuzz.cli.options import CaseFile, CorpusFolder
from indexfuzz.core.case import first_error
from indexfuzz.corpus.entry import Status
from indexfuzz.corpus.store import write


def triage(
    file: CaseFile,
    *,
    status: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(get_args(Status)),
            show_default=False,
            help="open: expected to fail where it was seen; unconfirmed: may fail there; fixed or guard: must pass.",
        ),
    ] = None,
    note: Annotated[
        str | None, typer.Option(metavar="TEXT", show_default=False, help="What there is to know about it.")
    ] = None,
    corpus: CorpusFolder = None,
) -> None:
    """Set the status or the note of a kept case.

    Example: `indexfuzz triage 0123456789abcdef --status guard --note "mended in 1.2"`
    """
    path, entry = find_one(file, corpus)
    if status is None and note is None:
        raise InputError("nothing to change; give --status or --note")
    if status is not None and status not in get_args(Status):
        raise InputError(f"--status: no {status!r}; choose from {', '.join(get_args(Status))}")
    changes = {"status": status or entry.status, "note": entry.note if note is None else note}
    try:
        changed = type(entry).model_validate(dict(entry) | changes)
    except ValidationError as error:
        raise InputError(f"--note: {first_error(error)}") from None
    try:
        write(changed, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
    console().print(f"{path}: {entry.status} -> {changed.status}")
    if changed.note:
        console().print(f"  {changed.note}")
