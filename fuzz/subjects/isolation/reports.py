"""What Python's faulthandler wrote of a process: the frames that it was in, and what they say of where it is stuck."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from indexfuzz.core.tracebacks import is_of_a_tool
from indexfuzz.implementations.sources import whiles_in

FRAME = re.compile(r'^  File "([^"]+)", line (\d+) in ', re.MULTILINE)
DUMP = re.compile(r"^(Fatal Python error: |Current thread 0x|Stack \(most recent)", re.MULTILINE)
"""How a report begins."""
END = re.compile(r'^  (File ".*bootstrap\.py", line \d+ in <module>|\.\.\.)$', re.MULTILINE)
"""How it ends: with the outermost frame of the child, or where it leaves out the rest."""


def last_words(errors: str) -> str:
    """The last line on standard error that is not the report."""
    dump = DUMP.search(errors)
    lines = [line.strip() for line in errors[: dump.start() if dump else None].splitlines()]
    return next((line for line in reversed(lines) if line), "")


def has_whole_report(errors: str) -> bool:
    """Whether the report is there, to its end."""
    dump = DUMP.search(errors)
    return dump is not None and END.search(errors, dump.start()) is not None


def location(errors: str) -> str:
    """file:line of the innermost frame of somebody's kernel or launcher; empty where there is none."""
    return next((f"{path}:{line}" for path, line in _frames(errors) if _is_somebodys(path)), "")


def is_counting(errors: str, whiles: Mapping[str, Sequence[Sequence[int]]]) -> bool:
    """Whether the process was in lockstep, and in no `while` of somebody's kernel or launcher.

    Then it comes to an end: lockstep runs every other loop of a kernel as often as it said beforehand. `whiles` has
    first and last lines by file, for files that are not on disk under the name that a frame has.
    """
    stack = list(_frames(errors)) if has_whole_report(errors) else []
    if not any("lockstep" in path.parts[:-1] for path, _ in stack):
        return False
    return not any(_may_be_endless(path, line, whiles) for path, line in stack if _is_somebodys(path))


def _frames(errors: str) -> Iterator[tuple[Path, int]]:
    """File and line of the frames inside a stage, the innermost first."""
    dump = DUMP.search(errors)
    for file, line in FRAME.findall(errors[dump.start() :] if dump else ""):
        path = Path(file)
        if path.parts[-2:] == ("isolation", "worker.py"):
            return
        yield path, int(line)


def _is_somebodys(path: Path) -> bool:
    """Whether a file is neither Python's, nor a tool's, nor made while running, as `<frozen importlib>` is."""
    is_of_python = any(part.startswith("python3") for part in path.parts) and "site-packages" not in path.parts
    return not str(path).startswith("<") and not is_of_python and not is_of_a_tool(path)


def _may_be_endless(path: Path, line: int, whiles: Mapping[str, Sequence[Sequence[int]]]) -> bool:
    """Whether a line stands in a `while`, as far as its file is known or can be read."""
    try:
        loops = whiles[str(path)] if str(path) in whiles else whiles_in(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return True
    return any(first <= line <= last for first, last in loops)
