"""A corpus entry in a form that reads well on a terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from indexfuzz.cli.picture import print_picture
from indexfuzz.core.case_words import describe_case
from indexfuzz.core.finding import Finding, promise
from indexfuzz.core.tiers import explain_tier
from indexfuzz.corpus.entry import Entry, Record
from indexfuzz.report.pictures.grid import Picture
from indexfuzz.subjects.subject import Facts
from indexfuzz.triage.explain import Explanation
from indexfuzz.triage.replay import Replay


def print_entry(path: Path, entry: Entry, console: Console) -> None:
    """Print the case, what is special about it, its finding, and where that was seen."""
    console.print(f"case {entry.case.id}, {entry.status}  ({path})", style="bold")
    if entry.note:
        console.print(entry.note)
    if entry.cause:
        console.print(f"put down to {entry.cause}; it may yet be a bug of its own")
    if entry.link:
        console.print(entry.link)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for part, name, value in describe_case(entry.case):
        table.add_row(part, name, Text(value))
    console.print(Text("\nWhat it is made of (everything else is at its default)"))
    console.print(table)
    if finding := entry.finding:
        _print_finding(finding, promise(finding.beyond), finding.location, console)
    for sighting in entry.seen:
        also = f": {sighting.signature}" if sighting.signature else ""
        console.print(
            f"  seen on {sighting.implementation}, {sighting.device}, triton {sighting.triton}, "
            f"torch {sighting.torch}, {sighting.date}{also}"
        )


def print_now(
    kept: Record | None,
    facts: Facts,
    result: Replay,
    explanation: Explanation | None,
    told: Sequence[str],
    pictures: Sequence[Picture],
    console: Console,
) -> None:
    """Print what became of an entry on what is under test now, first what would make it pass.

    `told` is the line of the kernel that the first finding comes from, with its values; `pictures` show it. A finding
    that is as it was `kept` was printed with the entry.
    """
    console.print(f"\nNow, on {facts.name} on {facts.device}: {result.status}", style="bold")
    if result.message:
        console.print(f"  {result.message}")
    for line in explanation.lines() if explanation else ():
        console.print(f"  {line}")
    for number, finding in enumerate(result.findings):
        if kept is not None and (kept.signature, kept.detail) == (finding.signature, finding.detail):
            console.print(f"\n{finding.signature}, as above", style="bold red")
            if finding.place and finding.place != kept.location:
                console.print(f"  at {finding.place}")
        else:
            _print_finding(finding, finding.promise, finding.place, console)
        if not number:
            for picture in pictures:
                print_picture(picture, console)
            for line in ("", *told) if told else ():
                console.print(Text(f"  {line}" if line else ""))


def _print_finding(finding: Record | Finding, covered: str, place: str, console: Console) -> None:
    console.print(f"\n{finding.signature}", style="bold red")
    console.print(f"  {finding.detail}")
    console.print(f"  {covered}")
    if finding.index:
        console.print(f"  first wrong element   {list(finding.index)}")
    facts = {
        "got": finding.got,
        "want": finding.want,
        "judged by": explain_tier(finding.tier),
        "at": place,
    }
    for what, text in facts.items():
        if text:
            console.print(f"  {what:<21} {text}")
