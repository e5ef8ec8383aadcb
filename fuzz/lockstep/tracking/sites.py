"""Where in a kernel's source the running operation is."""

import sys
from types import FrameType
from typing import Final, NamedTuple

from indexfuzz.lockstep.triton_api.functions import is_language_source

MARKER: Final = "__lockstep__"
"""The global name that a translated function's frames have and no other frame has."""


_frame: Final = sys._getframe  # noqa: SLF001 - inspect has no cheap way


class Site(NamedTuple):
    """A line of a kernel."""

    file: str
    line: int
    function: str


def current_site() -> Site:
    """The innermost line that a kernel's author wrote; Triton's own library counts only where nothing else runs."""
    frame: FrameType | None = _frame(1)
    library: Site | None = None
    while frame is not None:
        names = frame.f_globals
        if MARKER in names:
            site = Site(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
            if not is_language_source(names["__name__"]):
                return site
            library = library or site
        frame = frame.f_back
    return library or Site("<unknown>", 0, "<unknown>")


def author_site() -> Site | None:
    """The running line of a kernel, None inside a function of Triton's own library."""
    frame: FrameType | None = _frame(1)
    while frame is not None:
        names = frame.f_globals
        if MARKER in names:
            if is_language_source(names["__name__"]):
                return None
            return Site(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        frame = frame.f_back
    return None
