"""How a campaign ends: as text for people, as data for scripts."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from indexfuzz.campaign.events import Found
from indexfuzz.campaign.settings import Settings
from indexfuzz.campaign.summary import Summary, Width
from indexfuzz.core.outcome import SEVERAL, Ending
from indexfuzz.core.signature import Signature
from indexfuzz.core.tiers import explain_tiers
from indexfuzz.core.words import location_from_here
from indexfuzz.generation.goals import Goals, Unturned
from indexfuzz.subjects.subject import Subject
from indexfuzz.subjects.under_test import UnderTest

WHERE = {False: "of launchers and callers", True: "inside kernels"}
"""Where conditions stand, by whether that is inside a kernel."""

SKIPPED = 0.1
"""Share of the cases of a stage that may be outside its contract without a word."""


def print_summary(
    summary: Summary,
    saved: dict[Signature, Path],
    target: UnderTest[Subject],
    console: Console,
    only: frozenset[str] = frozenset(),
) -> None:
    """Print what was tried, of all stages or `only` of these, and what was found."""
    rate = summary.cases / summary.seconds if summary.seconds else 0.0
    name = signal.Signals(summary.interrupted).name if summary.interrupted else ""
    end = f"interrupted by {name} after" if name else "done:"
    console.print(
        f"{end} {summary.cases} case{'' if summary.cases == 1 else 's'} in {summary.seconds:.1f} s, {rate:.1f} cases/s"
    )
    _print_counts(console, "stages run", summary.stages)
    _print_counts(console, "outside the contract", summary.outside)
    _print_counts(console, "not executable here", summary.unsupported)
    _print_counts(console, "known findings", summary.known_before)
    if summary.known_before:
        console.print("    a new bug that shows as one of these counts as it, until that is mended or its case is gone")
    _print_counts(console, "launches whose order of lanes was looked at", summary.ordered)
    for symptom in _symptoms_of_known(summary, saved):
        console.print(f"  {symptom}, most likely a symptom of what is known; kept as {saved[symptom]}")
    for words in summary.unrepeated:
        console.print(f"  died once and not again: {words}")
    for death in summary.deaths:
        console.print(f"  {death.message}, twice, while the case {death.file} ran", style="bold red")
        console.print(f"  again: {target.command('replay', Path(death.file))}")
    _print_skipped(console, summary)
    _print_widths(console, summary.widths)
    for stage, tiers in summary.ratios.items():
        largest = ", ".join(f"{ratio:.3f} ({tier})" for tier, ratio in tiers.items())
        console.print(f"  largest error / bound in {stage}: {largest}")
    for line in explain_tiers(tier for tiers in summary.ratios.values() for tier in tiers):
        console.print(f"    {line}")
    _print_beyond(console, summary, target.subject.facts.clauses)
    _print_comparisons(console, summary.goals)
    if not summary.stages:
        console.print("no stage was tried: nothing can be said of these kernels", style="bold red")
    elif not summary.findings and not summary.deaths:
        if left := _never_tried(summary, target, only):
            console.print(
                f"not tried, so nothing can be said of it: {', '.join(left)}", style="bold red" if only else ""
            )
        if not (only and left):
            console.print("nothing new", style="green")
    for found in summary.findings:
        _print_found(found, summary, saved, target, console)


def _print_found(
    found: Found, summary: Summary, saved: dict[Signature, Path], target: UnderTest[Subject], console: Console
) -> None:
    finding = found.finding
    console.print(f"\n{finding.signature}", style="bold red")
    console.print(f"  {finding.detail}")
    console.print(f"  {finding.promise}")
    if finding.place:
        console.print(f"  at {finding.place}")
    if again := summary.seen_again(found):
        console.print(f"  seen {again} time{'' if again == 1 else 's'} more")
    if symptoms := summary.symptoms_of(found):
        what = "a symptom" if len(symptoms) == 1 else "symptoms"
        console.print(f"  also seen as {', '.join(map(str, symptoms))}, most likely {what} of the same bug")
        files = dict.fromkeys(str(saved[each]) for each in symptoms if each in saved)
        console.print(f"    kept as {', '.join(files)}")
    if found.doubt:
        console.print(f"  {found.doubt}")
    if path := saved.get(finding.signature):
        console.print(f"  saved as {path}")
        console.print(f"  again: {target.command('replay', path)}")


def _never_tried(summary: Summary, target: UnderTest[Subject], only: frozenset[str]) -> list[str]:
    """The stages under test that no case has run, as rare cases or a contract may have it."""
    return [each for each in target.subject.facts.stages if each not in summary.stages and (not only or each in only)]


def _symptoms_of_known(summary: Summary, saved: Mapping[Signature, Path]) -> list[Signature]:
    """What was kept as a symptom of what was known before the run."""
    return [signature for signature in saved if signature in summary.known_before]


def _print_comparisons(console: Console, goals: Goals) -> None:
    unturned = goals.unturned()
    for inside, where in WHERE.items():
        turned = goals.turned(inside=inside)
        if count := turned + sum(each.inside is inside for each in unturned):
            console.print(f"  conditions {where}: {turned} of {count} ended both ways")


def print_unturned(goals: Goals, console: Console) -> None:
    """Print every condition that has always ended the same way, and why."""
    unturned = goals.unturned()
    for inside, where in WHERE.items():
        if lines := _describe([each for each in unturned if each.inside is inside]):
            console.print(f"\nconditions {where} that always ended the same way")
        for line in lines:
            console.print(f"  {line}", soft_wrap=True, markup=False, highlight=False)


def _describe(unturned: Sequence[Unturned]) -> list[str]:
    places = ((each, location_from_here(f"{each.file}:{each.line}")) for each in unturned)
    return [str(replace(each, file=place.rpartition(":")[0])) for each, place in places]


def _print_beyond(console: Console, summary: Summary, clauses: Mapping[str, Sequence[str]]) -> None:
    """What becomes of cases beyond the contract, clause by clause, the worst first; and the clauses not yet tried."""
    endings = get_args(Ending)

    def how_bad(clause: str) -> tuple[bool, int]:
        return clause != SEVERAL, max(endings.index(e) for stage in summary.beyond[clause].values() for e in stage)

    if summary.beyond:
        console.print("beyond the contract, where a case breaks")
    for clause in sorted(summary.beyond, key=how_bad, reverse=True):
        console.print(f"  {clause}")
        for stage, counts in summary.beyond[clause].items():
            shown = ", ".join(f"{ending} {counts[ending]}" for ending in reversed(endings) if counts[ending])
            console.print(f"    {stage}: {shown}")
    untried = _untried(summary, clauses)
    if untried:
        console.print("no case broke alone")
    for clause, stages in untried.items():
        console.print(f"  {clause}")
        console.print(f"    {', '.join(stages)}")


def _untried(summary: Summary, clauses: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The stages that ran without a case that broke a clause of theirs, and no other, by clause."""
    untried: dict[str, list[str]] = {}
    for stage in summary.stages:
        for clause in clauses.get(stage, ()):
            if stage not in summary.beyond.get(clause, ()):
                untried.setdefault(clause, []).append(stage)
    return untried


def _print_widths(console: Console, widths: Mapping[str, Width]) -> None:
    """How much the outputs of operations of several nodes leave open, on average and at most, where they do."""
    told = [f"{stage} {width.mean:.2%} (at most {width.most:.2%})" for stage, width in widths.items() if width.most]
    if told:
        console.print(f"  elements with more than one legal value: {', '.join(told)}")


def _print_skipped(console: Console, summary: Summary) -> None:
    """The share of cases that an operation left out, where that is more than a tenth."""
    for stage, skipped in summary.outside.items():
        share = skipped / (skipped + summary.stages[stage])
        if share > SKIPPED:
            console.print(f"  {stage} left out {share:.0%} of its cases: they are outside its contract")


def _print_counts(console: Console, what: str, counts: Mapping[Any, int]) -> None:
    if counts:
        console.print(f"  {what}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))


def as_data(
    summary: Summary, saved: dict[Signature, Path], settings: Settings, target: UnderTest[Subject]
) -> dict[str, Any]:
    """The summary as plain JSON data."""
    return {
        "implementation": target.subject.facts.name,
        "notes": list(target.subject.facts.notes),
        "device": target.subject.facts.device,
        "seed": settings.seed,
        "shard": list(settings.shard),
        "cases": summary.cases,
        "seconds": round(summary.seconds, 3),
        "interrupted": bool(summary.interrupted),
        "findings": [
            found.finding.as_json()
            | {
                "case": found.case.id,
                "file": str(saved.get(found.finding.signature, "")),
                "symptoms": list(map(str, summary.symptoms_of(found))),
                "symptom_files": [str(saved.get(each, "")) for each in summary.symptoms_of(found)],
                "again": summary.seen_again(found),
            }
            for found in summary.findings
        ],
        "symptoms_of_known": {str(each): str(saved[each]) for each in _symptoms_of_known(summary, saved)},
        "known": {str(signature): count for signature, count in summary.known_before.items()},
        "stages": dict(summary.stages),
        "unturned": _describe(summary.goals.unturned()),
        "outside": dict(summary.outside),
        "not_tried": _never_tried(summary, target, settings.only),
        "unsupported": dict(summary.unsupported),
        "ordered": dict(summary.ordered),
        "unrepeated": summary.unrepeated,
        "deaths": [{"message": death.message, "file": death.file} for death in summary.deaths],
        "beyond": {
            clause: {s: dict(counts) for s, counts in stages.items()} for clause, stages in summary.beyond.items()
        },
        "beyond_untried": _untried(summary, target.subject.facts.clauses),
        "largest_error_over_bound": summary.ratios,
    }
