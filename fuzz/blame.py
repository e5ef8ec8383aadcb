"""Where an exception came from: the last line of somebody's kernel or launcher, not of the tools that ran it."""

import traceback
from pathlib import Path

TOOLS = ("triton", "torch", "numpy", "lockstep")


def location_of(error: BaseException) -> str:
    """file:line of the innermost frame that belongs to no tool; empty when there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        folders = set(Path(frame.filename).parts[:-1])
        if not folders.intersection(TOOLS):
            return f"{frame.filename}:{frame.lineno}"
    return ""
