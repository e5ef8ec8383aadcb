"""The command `mutate`: small mistakes in the built-in kernels, and how many of them the fuzzer finds."""

import json
import platform
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indexfuzz.cli.common import FINDINGS, NOTHING_NEW, InputError, console
from indexfuzz.cli.options import AsJson

if TYPE_CHECKING:  # these import torch
    from collections.abc import Sequence

    from indexfuzz.evaluation.mutation.examine import Budget, Result
    from indexfuzz.evaluation.mutation.guarded import Recipe
    from indexfuzz.evaluation.mutation.hunt import Budget as HuntBudget
    from indexfuzz.evaluation.mutation.hunt import HuntReport
    from indexfuzz.evaluation.mutation.mutants import Mutant
    from indexfuzz.evaluation.mutation.report import Report

LINE_SECONDS = 10.0
"""How often progress is told."""


def mutate(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[WORD]...",
            default_factory=list,
            show_default="all mutants",
            help="Only mutants of this id, kernel file (gather) or operator (cast).",
        ),
    ],
    *,
    only_list: Annotated[
        bool, typer.Option("--list", help="Print the mutants and what is known of them; run nothing.")
    ] = False,
    guarded: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            show_default=False,
            help="Make N mutants that act only where a condition drawn at random holds, and hunt each of them.",
        ),
    ] = None,
    one_in: Annotated[
        int | None,
        typer.Option(
            metavar="M",
            show_default="10, 100, 1000 and 10000, by turns",
            help="With --guarded: only mutants whose condition holds for about one case in M.",
        ),
    ] = None,
    part: Annotated[
        str,
        typer.Option(
            metavar="I/K",
            help="With --guarded: make and hunt the I-th of K parts of the mutants, so that K runs do all of them.",
        ),
    ] = "1/1",
    drawing: Annotated[
        list[str],
        typer.Option(
            metavar="WAY",
            default_factory=list,
            show_default="all",
            help="With --guarded: hunt with the cases of this way of drawing: campaign, unguided or uniform. "
            "Can be given more than once.",
        ),
    ],
    join: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE",
            default_factory=list,
            show_default=False,
            help="Run nothing; print one table of what runs with --guarded --json have written. Once for each file.",
        ),
    ],
    cases: Annotated[int, typer.Option(min=1, metavar="N", help="Try a mutant on so many cases.")] = 1000,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.0, metavar="S", show_default="40; 60 with --guarded", help="CPU time for a mutant, or for a hunt."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Cases are drawn from this seed.")] = 0,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Processes.")] = 1,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            show_default=False,
            help="Keep what becomes of each mutant or hunt here, and do not repeat what is here with this budget: "
            "a run that was stopped goes on.",
        ),
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default=False, help="Also write the report as a page.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count the small mistakes in the built-in kernels that the fuzzer finds: its mutation score.

    Exit code 1 when a mutant survives that fuzz/evaluation/mutation/gaps.toml does not name, or one is found that
    fuzz/evaluation/mutation/equivalent.toml calls equivalent.

    With --guarded the exit code is 0: what is found of mutants that hide measures the fuzzer, and every seed is a new
    set. docs/blind.md explains it.

    Example: `indexfuzz mutate gather --workers 2`, then `indexfuzz mutate --guarded 40 --seed 2026`
    """
    from indexfuzz.evaluation.mutation.examine import Budget
    from indexfuzz.evaluation.mutation.mutants import choose_mutants

    try:
        mutants = choose_mutants(words)
    except ValueError as error:
        raise InputError(f"{error}; `indexfuzz mutate --list` prints what there is") from None
    if only_list:
        _print_list(mutants, as_json=as_json)
        return
    if markdown and not markdown.parent.is_dir():
        raise InputError(f"--markdown: {markdown.parent} is no folder")
    if join:
        _join(join, as_json=as_json)
        return
    if guarded:
        from indexfuzz.evaluation.mutation.guarded import Recipe
        from indexfuzz.evaluation.mutation.hunt import Budget as HuntBudget

        each = HuntBudget(60.0 if seconds is None else seconds, seed)
        hunted = _hunt(_numbers(part, guarded, one_in), Recipe(seed, tuple(words)), each, drawing, workers, keep)
        typer.echo(json.dumps(hunted.as_data(), indent=1) if as_json else hunted.as_text())
        return
    budget = Budget(cases, 40.0 if seconds is None else seconds, seed)
    report = _examine(mutants, budget, workers, keep, markdown)
    typer.echo(json.dumps(report.as_data(), indent=1) if as_json else report.as_text())
    raise typer.Exit(NOTHING_NEW if report.is_as_known else FINDINGS)


def _examine(
    mutants: "Sequence[Mutant]", budget: "Budget", workers: int, folder: Path | None, page: Path | None
) -> "Report":
    """What becomes of each mutant, told as it goes, kept and written as a page where that is wanted."""
    from indexfuzz.evaluation.mutation.examine import Examiner, give_up
    from indexfuzz.evaluation.mutation.kept import KeptResults
    from indexfuzz.evaluation.mutation.report import Report
    from indexfuzz.evaluation.processes import examine_all

    try:
        kept = KeptResults(folder, budget) if folder else None
    except OSError as error:
        raise InputError(f"--keep: cannot make {folder}: {error.strerror}") from None
    found = {mutant: result for mutant in mutants if kept and (result := kept.get(mutant))}
    left = [mutant for mutant in mutants if mutant not in found]
    progress = _Progress(len(left))

    def take(result: "Result") -> None:
        if kept:
            kept.put(result)
        progress(result)

    found |= {r.mutant: r for r in examine_all(left, Examiner, give_up, budget, workers=workers, on_result=take)}
    report = Report([found[mutant] for mutant in mutants])
    if page:
        hours = sum(result.seconds for result in report.results) / 3600
        text = report.as_markdown(
            f"Each on at most {budget.cases} cases and {budget.seconds:g} s of CPU time, seed {budget.seed}; "
            f"{hours:.1f} hours of CPU time in all; Python {platform.python_version()} and Triton {version('triton')} "
            f"on {platform.machine()}."
        )
        page.write_text(text, encoding="utf-8")
    return report


def _numbers(part: str, count: int, one_in: int | None = None) -> range:
    """The numbers of the mutants of a part, which has as many of each rarity; or of those of one rarity alone.

    A number makes the same mutant, whichever others are made.
    """
    first, _, of = part.partition("/")
    if not (first.isdecimal() and of.isdecimal() and 1 <= int(first) <= int(of)):
        raise InputError(f"--part: {part!r} is none; say which of how many, as in 2/8")
    from indexfuzz.evaluation.mutation.guarded import RARITIES

    if one_in is not None and one_in not in RARITIES:
        raise InputError(f"--one-in: {one_in} is none; choose of {', '.join(map(str, RARITIES))}")
    turns = len(RARITIES)
    every = range(count) if one_in is None else range(RARITIES.index(one_in), count * turns, turns)
    together = turns if one_in is None else 1
    size = -(-count // (int(of) * together)) * together
    return every[(int(first) - 1) * size : int(first) * size]


def _join(files: list[Path], *, as_json: bool) -> None:
    """Print what several runs have found as one."""
    from indexfuzz.evaluation.mutation.hunt import HuntReport

    parts = []
    for file in files:
        try:
            parts.append(HuntReport.from_data(json.loads(file.read_text(encoding="utf-8"))))
        except OSError as error:
            raise InputError(f"--join: cannot read {file}: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise InputError(f"--join: {file} was not written by `indexfuzz mutate --guarded N --json`") from None
    try:
        report = HuntReport.joined(parts)
    except ValueError as error:
        raise InputError(f"--join: {error}") from None
    typer.echo(json.dumps(report.as_data(), indent=1) if as_json else report.as_text())


def _hunt(
    numbers: range, recipe: "Recipe", budget: "HuntBudget", drawings: list[str], workers: int, folder: Path | None
) -> "HuntReport":
    """What became of guarded mutants, each hunted with every way of drawing, told as it goes and kept where wanted."""
    from indexfuzz.evaluation.mutation import hunt
    from indexfuzz.evaluation.mutation.hunts import hunt_all
    from indexfuzz.evaluation.mutation.kept import KeptHunts

    if unknown := set(drawings) - set(hunt.DRAWINGS):
        raise InputError(f"--drawing: {min(unknown)!r} is none; choose of {', '.join(hunt.DRAWINGS)}")
    try:
        kept = KeptHunts(folder, recipe, budget) if folder else None
    except OSError as error:
        raise InputError(f"--keep: cannot make {folder}: {error.strerror}") from None
    err, chosen = console(err=True), tuple(each for each in hunt.DRAWINGS if each in drawings) or hunt.DRAWINGS

    def tell(count: int, result: hunt.Hunt) -> None:
        what, how = result.prey.guarded, f"found after {result.cases} cases" if result.found else "not found"
        err.print(f"{count} of {len(numbers) * len(chosen)}: one in {what.wanted:,}, {result.prey.drawing}: {how}")

    hunts = hunt_all(numbers, recipe, budget, drawings=chosen, workers=workers, kept=kept, tell=tell)
    return hunt.HuntReport(hunts, budget.seconds, recipe.seed)


def _print_list(mutants: "Sequence[Mutant]", *, as_json: bool) -> None:
    from indexfuzz.evaluation.mutation.report import words
    from indexfuzz.evaluation.mutation.survivors import equivalent, gaps

    known = {m.id: "equivalent" if m.id in equivalent() else "gap" if m.id in gaps() else "" for m in mutants}
    if as_json:
        fields = ("id", "file", "line", "operator", "old", "new")
        rows = [{name: getattr(m, name) for name in fields} | {"known": known[m.id]} for m in mutants]
        typer.echo(json.dumps(rows, indent=1))
        return
    for mutant in mutants:
        typer.echo(words(mutant) + (f"  ({known[mutant.id]})" if known[mutant.id] else ""))


class _Progress:
    """Tells on stderr how far it is: of each survivor at once, of everything else now and then."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._fates = Counter[str]()
        self._console = console(err=True)
        self._last = time.monotonic()

    def __call__(self, result: "Result") -> None:
        from indexfuzz.evaluation.mutation.survivors import equivalent

        is_same = result.fate == "survived" and result.mutant.id in equivalent()
        self._fates["equivalent" if is_same else result.fate] += 1
        if result.fate == "survived" and not is_same:
            self._console.print(f"survived: {result.mutant.id}")
        if time.monotonic() - self._last >= LINE_SECONDS:
            self._last = time.monotonic()
            counts = ", ".join(f"{count} {fate}" for fate, count in self._fates.items())
            self._console.print(f"{self._fates.total()} of {self._total} mutants: {counts}")
