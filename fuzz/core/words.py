"""Small pieces of messages: what somebody may have meant, and a path as they would type it."""

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


def suggestion(word: str, choices: Iterable[str], listed_by: str = "") -> str:
    """The end of a sentence about an unknown word: the choice that looks most like it, else all of them.

    Where these are too many to read, `listed_by` is the command that lists them.
    """
    known = sorted(choices)
    close = get_close_matches(word, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"`{listed_by}` lists them" if listed_by else f"choose from {', '.join(known)}"


def path_from_here(path: Path) -> Path:
    """The path as it is typed in the current folder: relative, unless that is longer."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links, and show another path
    relative = Path(os.path.relpath(absolute))
    return relative if len(str(relative)) <= len(str(absolute)) else absolute


def location_from_here(location: str) -> str:
    """A "file:line" with its file as typed in the current folder."""
    file, colon, line = location.rpartition(":")
    return f"{path_from_here(Path(file))}{colon}{line}" if file and Path(file).is_absolute() else location


def printable(text: str) -> str:
    """A text of somebody else, without the control characters that break or turn a line, or paint on a terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", "?", text)
