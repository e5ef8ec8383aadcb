"""The command `triage`: say what became of a kept case."""

from typing import Annotated, get_args

import typer
from pydantic import ValidationError

from indexfuzz.cli.common import InputError, console, find_one
from indexfuzz.cli.options import CaseFile, CorpusFolder
from indexfuzz.core.part import first_error
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
    link: Annotated[
        str | None,
        typer.Option(metavar="URL", show_default=False, help="The issue about it, http or https; '' takes it away."),
    ] = None,
    corpus: CorpusFolder = None,
) -> None:
    """Set the status, the note or the issue of a kept case.

    Example: `indexfuzz triage 0123456789abcdef --status guard --note "mended in 1.2"`,
    `indexfuzz triage 0123456789abcdef --link https://example.org/issues/7`
    """
    path, entry = find_one(file, corpus)
    given: dict[str, str | None] = {
        name: value for name, value in (("status", status), ("note", note), ("link", link)) if value is not None
    }
    if not given:
        raise InputError("nothing to change; give --status, --note or --link")
    if status is not None and status not in get_args(Status):
        raise InputError(f"--status: no {status!r}; choose from {', '.join(get_args(Status))}")
    if status is not None:
        given["cause"] = None  # what a hand says of it stands for itself
    try:
        changed = type(entry).model_validate(dict(entry) | given)
    except ValidationError as error:
        field, _, complaint = first_error(error).partition(": ")
        if field == "link":
            complaint = f"{link!r} is no address such as https://example.org/issues/7"
        raise InputError(f"--{field if field in given else 'status'}: {complaint}") from None
    try:
        write(changed, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
    was = f"{entry.status} -> " if changed.status != entry.status else ""
    console().print(f"{path}: {was}{changed.status}")
    for text in filter(None, (changed.note, changed.link)):
        console().print(f"  {text}")
