"""Printing text: on a terminal wrapped at its width, every line with its indent; elsewhere as it is."""

import re
import sys
import textwrap
from typing import Any

from rich.console import Console

COMMAND = re.compile(r"\s*(again|smaller|next): ")
"""Lines that hold a command to copy: wrapped, it could not be."""

LEAST = 20
"""Columns that a line has at least behind its indent."""


class WrappingConsole(Console):
    """A console that prints what it is given: no markup, no guessing at colours."""

    def __init__(self, *, err: bool = False, width: int | None = None, **more: Any) -> None:
        is_terminal = (sys.stderr if err else sys.stdout).isatty()
        self.wraps = is_terminal or width is not None
        wide = width if self.wraps else 200
        super().__init__(stderr=err, markup=False, highlight=False, emoji=False, soft_wrap=True, width=wide, **more)

    def print(self, *objects: Any, **how: Any) -> None:
        """Print, and wrap what is plain text."""
        if self.wraps and how.get("end", "\n") == "\n":
            objects = tuple(self._wrapped(o) if isinstance(o, str) else o for o in objects)
        super().print(*objects, **how)

    def _wrapped(self, text: str) -> str:
        return "\n".join(line if COMMAND.match(line) else wrap_line(line, self.width) for line in text.split("\n"))


def wrap_line(line: str, width: int) -> str:
    """A line cut between words; what follows has its indent and two columns more. Words stay whole."""
    indent = " " * (len(line) - len(line.lstrip()))
    if len(line) <= width:
        return line
    wrapped = textwrap.wrap(
        line.lstrip(),
        max(width, len(indent) + LEAST),
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(wrapped)
