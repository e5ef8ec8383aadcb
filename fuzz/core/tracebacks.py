"""Where an exception came from: the last line of somebody's kernel or launcher, not of the tools that ran it."""

import traceback
from pathlib import Path

TOOLS = ("triton", "torch", "numpy", "lockstep")
_WATCHING = ("implementations", "watching.py")
"""Evaluates the conditions of the code under test, in frames of its own."""


def is_of_a_tool(file: Path) -> bool:
    """Whether a file belongs to what runs somebody's code, not to that code."""
    return bool(set(file.parts[:-1]).intersection(TOOLS)) or file.parts[-2:] == _WATCHING


def origin_of(error: BaseException) -> BaseException:
    """What somebody's code raised, where a tool has wrapped it in an exception of its own; else the error itself."""
    while error.__cause__ is not None and set(type(error).__module__.split(".")).intersection(TOOLS):
        error = error.__cause__
    return error


def location_of(error: BaseException) -> str:
    """file:line of the innermost frame that belongs to no tool or torch function mode; empty when there is none."""
    for frame in reversed(traceback.extract_tb(origin_of(error).__traceback__)):
        if not is_of_a_tool(Path(frame.filename)) and frame.name != "__torch_function__":
            return f"{frame.filename}:{frame.lineno}"
    return ""
