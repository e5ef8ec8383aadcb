"""A record of launches in words and as JSON."""

import json
import linecache
import tempfile
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Final

from indexfuzz.lockstep.programs.record import BROKE, FAILED, REFUSED, LaunchRecord, Record
from indexfuzz.lockstep.tracking.violations import Violation

NOTHING_RAN: Final = "no Triton kernel was launched, so nothing was checked"

_WORDS: Final = {
    REFUSED: "refused, a feature is missing",
    FAILED: "ended by an error of the kernel or its launch",
    BROKE: "ended by a defect of lockstep itself",
}


def summarise(record: Record) -> list[str]:
    """The outcome in a few lines: counts, then what was refused and what failed, with reasons."""
    if not record.launches:
        return [NOTHING_RAN]
    kernels, launches, found = len(record.kernels), len(record.launches), len(record.violations)
    counts = [_count(kernels, "kernel"), _count(launches, "launch"), _count(found, "violation")]
    if ordered := sum(launch.is_ordered for launch in record.launches):
        counts.append(f"order looked at in {_count(ordered, 'launch')}")
    lines = [", ".join(counts)]
    for outcome, words in _WORDS.items():
        for (kernel, reason), times in sorted(record.reasons(outcome).items()):
            lines.append(f"{kernel}: {_count(times, 'launch')} {words}: {reason}")
    return lines


def describe_violation(violation: Violation, launch: LaunchRecord | None = None, told: str = "") -> str:
    """A violation with the line of source that made it, its values where they are told, and the launch's arguments."""
    lines = [str(violation)]
    if told:
        lines += [f"    {line}" for line in told.splitlines()]
    elif source := linecache.getline(violation.file, violation.line).strip():
        lines.append(f"    {violation.line}: {source}")
    if launch is not None:
        lines.append(f"    launched with {launch.arguments}")
    return "\n".join(lines)


def describe_launches(launches: list[LaunchRecord]) -> str:
    """Every violation of some launches, once, with the first launch that made it."""
    seen: set[Violation] = set()
    found = []
    for launch in launches:
        for violation, told in zip_longest(launch.violations, launch.told, fillvalue=""):
            if isinstance(violation, Violation) and violation not in seen:
                seen.add(violation)
                found.append(describe_violation(violation, launch, told))
    return "\n".join(found)


def write_report(record: Record, file: Path) -> None:
    """Write everything: as JSON where the file is called so, else as text.

    Raises OSError.
    """
    is_json = file.suffix == ".json"
    text = json.dumps(record.as_data(), indent=1) if is_json else "\n".join(_describe_all(record))
    _replace(file, text + "\n")


def _describe_all(record: Record) -> Iterator[str]:
    yield from summarise(record)
    yield ""
    for (kernel, place), outcomes in sorted(record.kernels.items()):
        yield f"{kernel} ({place}): " + ", ".join(f"{times} {outcome}" for outcome, times in sorted(outcomes.items()))
    if found := describe_launches(record.launches):
        yield ""
        yield found
    yield ""
    yield record.coverage.report()


def _count(number: int, noun: str) -> str:
    plural = noun + ("es" if noun.endswith("ch") else "s")
    return f"{number} {noun if number == 1 else plural}"


def _replace(file: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    with tempfile.NamedTemporaryFile(
        "w", dir=file.parent, prefix=f".{file.name}-", delete=False, encoding="utf-8"
    ) as made:
        made.write(text)
    Path(made.name).replace(file)
