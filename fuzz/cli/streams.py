"""Standard output that somebody has closed: what is written is dropped, and the exit code stays what it is."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast


class Forgiving:
    """A text stream; once nobody reads it any more, it leads to nowhere."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop, a text."""
        try:
            return int(self._stream.write(text))
        except BrokenPipeError:
            self._lead_nowhere()
            return len(text)

    def flush(self) -> None:
        """Flush what is there."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._lead_nowhere()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lead_nowhere(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextmanager
def forgiving_streams() -> Iterator[None]:
    """Let neither a closed standard output nor a reader that has left be an error."""
    before = sys.stdout, sys.stderr
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        sys.stdout, sys.stderr = (cast("TextIO", Forgiving(stream or nowhere)) for stream in before)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stdout, sys.stderr = before
