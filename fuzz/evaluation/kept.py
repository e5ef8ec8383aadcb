"""Results of measurements that take long, one file each, so that a run that was stopped goes on where it was."""

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from indexfuzz.corpus.store import write_text


class Kept:
    """A folder of results by name: plain JSON data."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def put(self, name: str, result: dict[str, Any]) -> None:
        """Keep a result in place of the one that is there."""
        write_text(json.dumps(result, indent=1), self._folder / f"{name}.json")

    def get(self, name: str) -> dict[str, Any] | None:
        """The result of this name, if there is one that can be read."""
        try:
            result = json.loads((self._folder / f"{name}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return result if isinstance(result, dict) else None

    def all_of(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """The results that there are of these, in their order."""
        return [result for name in names if (result := self.get(name)) is not None]


def keep_page(text: str, root: Path, page: Path, *, missing: str) -> None:
    """Write a page below a folder, or leave the one that is there where something is missing, and say what."""
    if missing:
        print(f"{page} stays as it is: {missing}", file=sys.stderr)  # noqa: T201
    else:
        write_text(text, root / page)


def measure_all(
    names: Sequence[str],
    measure: Callable[[str], dict[str, Any]],
    kept: Kept,
    *,
    again: Sequence[str] = (),
    tell: Callable[[str, dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """Measure what has no result yet, or only what is in `again`, a process per core; the results of all that have one.

    `measure` is called in a process of its own and must be importable there; `tell` hears of each result as it comes.
    What it raises for one name is raised once all others are measured.
    """
    raised: list[BaseException] = []
    wanted = again or [name for name in names if kept.get(name) is None]
    with ProcessPoolExecutor(os.cpu_count() or 1, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(measure, name): name for name in wanted}
        for done in as_completed(running):
            if error := done.exception():
                error.add_note(f"while measuring {running[done]}")
                raised.append(error)
                continue
            kept.put(running[done], done.result())
            tell(running[done], done.result())
    if raised:
        raise raised[0]
    return kept.all_of(names)
