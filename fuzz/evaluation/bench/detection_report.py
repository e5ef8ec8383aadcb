"""The table of docs/detection.md."""

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from indexfuzz.evaluation.bench.baseline import GRIDS
from indexfuzz.implementations.faults import load_faults

HEAD = """# Detection of planted bugs

Made by `indexfuzz bench detection`; do not edit. Every fault is a bug that shipped in some indexer, planted in the
built-in kernels (`indexfuzz faults` says which). A fault counts as found only where the clean kernels pass the very
case that shows it. The plain generator draws each parameter independently and evenly over its range, nearly Gaussian
values, and no boundaries; its cases are compared with the reference as a campaign's are, under the same guards. Without
coverage feedback a campaign draws as it does before it has seen anything: it is not steered to what the code under test
has decided one way only.

What steering is worth is measured where the faults are not known beforehand: [blind.md](blind.md).
"""


def as_markdown(results: Sequence[dict[str, Any]], *, seeds: int, seconds: float, plain_seconds: float) -> str:
    """Results of the detection bench, fields of Detection, as Markdown."""
    lines = [
        HEAD.rstrip(),
        "",
        *_summary(results, seeds, seconds, plain_seconds),
        *_machines(results),
        "",
        *_table(results, seeds),
        "",
        *_first_sight(results, seeds),
        "",
        *_baselines(),
    ]
    return "\n".join(lines) + "\n"


def _summary(results: Sequence[dict[str, Any]], seeds: int, seconds: float, plain_seconds: float) -> list[str]:
    everywhere = [r for r in results if len(r["cases"]) == seeds]
    medians = [statistics.median(r["seconds"]) for r in results if r["seconds"]]
    slowest = max((max(r["seconds"]) for r in results if r["seconds"]), default=0.0)
    minimal = [r for r in results if r["sequences"] is not None]
    steps, sessions = [r for r in minimal if not r["steps"]], [r for r in minimal if r["steps"]]
    small = [r for r in steps if r["sequences"] <= 2 and r["tokens"] <= 4]
    short = [r for r in sessions if r["sequences"] <= 2 and r["steps"] <= 3]
    plain = sum(len(r["uniform_cases"]) == seeds for r in results)
    blind = sum(not r["uniform_cases"] for r in results)
    unsteered = sum(len(r["unsteered_cases"]) == seeds for r in results)
    lines = [
        f"- {len(everywhere)} of {len(results)} faults found in all {seeds} seeds within {seconds:.0f} s each.",
        f"- The median fault is found after {statistics.median(medians):.1f} s; the slowest find took {slowest:.1f} s.",
        f"- {sum(r['rightly_blamed'] for r in results)} of {len(results)} blamed on the right stage in every seed.",
        f"- {len(small)} of {len(steps)} minimal cases of one step have at most 2 sequences and 4 tokens.",
        f"- {len(short)} of {len(sessions)} minimal sessions have at most 3 steps and 2 requests.",
        f"- Without coverage feedback, {seconds:.0f} s each: {unsteered} found in all seeds.",
        f"- The plain generator, {plain_seconds:.0f} s each: {plain} found in all seeds, {blind} in none.",
    ]
    for grid in GRIDS:
        count = sum(r["grids"].get(grid.project) is not None for r in results)
        lines.append(f"- The grid of {grid.project}: {count} found.")
    return lines


def _machines(results: Sequence[dict[str, Any]]) -> list[str]:
    total = Counter[str]()
    for r in results:
        total.update(r["machines"])
    lines = ["- Seconds of CPU time; a process for each fault and seed, as many at a time as there are cores:"]
    return [*lines, *(f"  - {count} with {machine}" for machine, count in total.most_common())]


def _table(results: Sequence[dict[str, Any]], seeds: int) -> list[str]:
    projects = [grid.project for grid in GRIDS]
    head = [
        "fault",
        "stage",
        "found",
        "cases: median (worst)",
        "seconds: median (worst)",
        "blamed",
        "minimal: sequences, tokens (steps of a session)",
        "without coverage feedback: found, median cases",
        "plain generator: found, median cases",
        *projects,
    ]
    rows = [head, ["---"] * len(head), *(_row(result, seeds, projects) for result in results)]
    return ["| " + " | ".join(row) + " |" for row in rows]


def _row(r: dict[str, Any], seeds: int, projects: Sequence[str]) -> list[str]:
    return [
        r["fault"],
        r["stage"],
        f"{len(r['cases'])}/{seeds}",
        _spread(r["cases"], 0),
        _spread(r["seconds"], 1),
        ("right" if r["rightly_blamed"] else ", ".join(sorted(set(r["blamed"])))) if r["blamed"] else "-",
        _size(r),
        *(_finds(r[name], seeds) for name in ("unsteered_cases", "uniform_cases")),
        *("missed" if r["grids"].get(project) is None else "found" for project in projects),
    ]


def _size(r: dict[str, Any]) -> str:
    """How large the minimal case is."""
    if r["sequences"] is None:
        return "-"
    return f"{r['sequences']}, {r['tokens']}" + (f" ({r['steps']})" if r["steps"] else "")


def _finds(cases: Sequence[int], seeds: int) -> str:
    return f"{len(cases)}/{seeds}" + (f", {statistics.median(cases):.0f}" if cases else "")


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({max(values):.{digits}f})" if values else "-"


def _first_sight(results: Sequence[dict[str, Any]], seeds: int) -> list[str]:
    """The faults that were written down before anybody looked, as they were found then and are found now."""
    known = load_faults()
    chosen = [r for r in results if known[r["fault"]].first_sight]
    lines = [
        "## Faults that the generator was not tuned on",
        "",
        f"{len(chosen)} of the faults were taken from other reports, written down and committed before the first run",
        "over them. What that run showed stands here, whatever was changed since. Where it missed one, campaigns got",
        "what they lacked in general: gaps between the rows of every tensor, and the whole indexer held against its",
        "stages.",
        "",
        "| fault | source | at first sight | now |",
        "| --- | --- | --- | --- |",
    ]
    for r in chosen:
        fault = known[r["fault"]]
        now = f"{len(r['cases'])}/{seeds}, {_spread(r['cases'], 0)} cases"
        lines.append(f"| {fault.id} | {fault.source} | {fault.first_sight} | {now} |")
    return lines


def _baselines() -> list[str]:
    lines = [
        "## The grids",
        "",
        "Scaled to a CPU in the same proportions. Every stage that a project tests gets right inputs and is compared",
        "with the reference on the same codes, where the projects' own tests mostly compare with unquantised data:",
        "the columns above flatter the grids.",
        "",
        "| project | published | run here | stages compared |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {g.project} | {g.published} | {g.scaled} | {', '.join(g.compares)} |" for g in GRIDS]
    return lines
