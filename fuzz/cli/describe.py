"""A corpus entry in a form that reads well on a terminal."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from indexfuzz.core.case import Case
from indexfuzz.core.finding import promise
from indexfuzz.corpus.entry import Entry

MAX_OVERRIDES = 8


def print_entry(path: Path, entry: Entry, console: Console) -> None:
    """Print the case, what is special about it, its finding, and where that was seen."""
    console.print(f"case {entry.case.id}, {entry.status}  ({path})", style="bold")
    if entry.note:
        console.print(entry.note)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for part, name, value in special(entry.case):
        table.add_row(part, name, Text(value))
    console.print(Text("\nWhat it is made of (everything else is at its default)"))
    console.print(table)
    if finding := entry.finding:
        console.print(f"\n{finding.signature}", style="bold red")
        console.print(f"  {finding.detail}")
        console.print(f"  {promise(finding.beyond)}")
        if finding.index:
            console.print(f"  first wrong element   {list(finding.index)}")
        facts = {"got": finding.got, "want": finding.want, "judged by": finding.tier, "at": finding.location}
        for what, text in facts.items():
            if text:
                console.print(f"  {what:<21} {text}")
    for sighting in entry.seen:
        also = f": {sighting.signature}" if sighting.signature else ""
        console.print(
            f"  seen on {sighting.implementation}, {sighting.device}, triton {sighting.triton}, "
            f"torch {sighting.torch}, {sighting.date}{also}"
        )


def special(case: Case) -> Iterator[tuple[str, str, str]]:
    """(part, field, value) of everything in which a case differs from the simplest one, and of its shape anyway."""
    always = {"num_heads", "head_dim", "block_size", "decode", "prefill"}
    plain = Case()
    for part in type(case).model_fields:
        shown = part
        for name in type(getattr(case, part)).model_fields:
            value = getattr(getattr(case, part), name)
            if value != getattr(getattr(plain, part), name) or name in always:
                yield shown, name, _words(name, value)
                shown = ""


def _words(name: str, value: object) -> str:
    if name == "decode" and isinstance(value, tuple):
        return f"{len(value)} requests with contexts {list(value)}" if value else "none"
    if name == "prefill" and isinstance(value, tuple):
        return ", ".join(f"{p.length} tokens, {p.new} of them new" for p in value) or "none"
    if name == "set" and isinstance(value, dict):
        entries = [(tensor, *entry) for tensor, rows in value.items() for entry in rows]
        more = f" and {len(entries) - MAX_OVERRIDES} more" if len(entries) > MAX_OVERRIDES else ""
        shown = (f"{tensor}{index} = {_number(number)}" for tensor, *index, number in entries[:MAX_OVERRIDES])
        return ", ".join(shown) + more
    return str(value)


def _number(text: object) -> str:
    return f"{float.fromhex(str(text)):g}"
