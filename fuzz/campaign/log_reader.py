"""Read the log of a campaign, line by line: a log may be larger than memory, and may come from strangers."""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from indexfuzz.campaign.log import AnyLine, Line, Start
from indexfuzz.core.words import printable

MOST_BYTES = 1 << 20
"""Bytes of a line; one that is longer is none of a log."""


class LogError(Exception):
    """A log that cannot be read. One sentence that names the file and the line."""


def read_lines(path: Path) -> Iterator[AnyLine]:
    """The lines of a log, the first of which is its Start. The last line of a run that was killed may be cut.

    Raises LogError.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise LogError(f"{path}: {'is a folder' if stat.S_ISDIR(mode) else 'is no regular file'}")
        with path.open("rb") as file:
            yield from _lines_of(file, path)
    except OSError as error:
        raise LogError(f"{path}: {error.strerror}") from None


def _lines_of(file: BinaryIO, path: Path) -> Iterator[AnyLine]:
    number, has_started = 0, False
    while text := file.readline(MOST_BYTES):
        number += 1
        if not text.strip():
            continue
        is_whole = text.endswith(b"\n")
        try:
            line: AnyLine = Line.validate_json(text)
        except ValidationError as error:
            if not is_whole and len(text) < MOST_BYTES and has_started:
                return
            raise LogError(f"{path}: {_describe_error(text, number, error)}") from None
        if not has_started and not isinstance(line, Start):
            raise LogError(f"{path}: line {number} comes before the line that starts a log")
        has_started = True
        yield line
    if not has_started:
        raise LogError(f"{path}: holds no run; `indexfuzz run --log {path}` writes one")


def _describe_error(text: bytes, number: int, error: ValidationError) -> str:
    try:
        text.decode()
    except UnicodeDecodeError:
        return f"line {number} is not UTF-8 text"
    if len(text) == MOST_BYTES:
        return f"line {number} is longer than any line of a log"
    what = printable(error.errors()[0]["msg"])
    return f"line {number} is no line of a log that `run --log` writes: {what}"
