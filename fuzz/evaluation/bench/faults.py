"""Every planted bug in one table: what it is, and how soon it is found, from the pages that say so.

Measures nothing. A bug's figures are those of the last row that the first of the pages has of it; what is counted in
several seeds goes before what was seen in one stream of cases. Written to docs/faults.md.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from indexfuzz.corpus.store import write_text
from indexfuzz.implementations.faults import load_faults

ROOT = Path(__file__).parents[3]
PAGE = Path("docs/faults.md")
SOURCES = ("detection.md", "sessions.md")
"""Pages with tables of what was found, below docs/: the first one goes before the second."""

SECONDS = ("seconds: median (worst)", "seconds of a core, median (worst)", "seconds of a core")
"""What tables call the CPU time of a find."""

ONE_STREAM = "one stream"
"""Stands for how many seeds found a bug, where a page has looked for it once."""

HEAD = """# Planted bugs

Made by `indexfuzz bench faults` from the tables of [detection.md](detection.md) and [sessions.md](sessions.md), which
say when and on what machine each was measured; do not edit. Every bug of `indexfuzz faults` has a row: a test holds
that.

"Found" is in how many of so many seeds a campaign of the usual mix found the bug within a minute of CPU time, or two
where its table says so. Times are medians over the seeds that found it, the worst in parentheses. Machines were of
unlike speed, so that times are to be compared within one table. Where a bug was looked for in one stream of sessions of
its own operation alone, "found" says so, and the time is that of this stream. Five seeds looked for these later, all
together: the end of [Planted bugs](sessions.md#planted-bugs) has what they found.
"""
COLUMNS = ("bug", "what is wrong", "stage", "found", "seconds", "measured")


@dataclass(frozen=True)
class Row:
    """What one table says of one bug, as it stands there."""

    fault: str
    found: str
    seconds: str
    page: str
    section: str


def rows_of(page: str, text: str) -> Iterator[Row]:
    """The rows of a page's tables of found bugs: those with the column "fault" and one of CPU time."""
    section, columns = "", list[str]()
    for line in text.splitlines():
        section = line.removeprefix("## ") if line.startswith("## ") else section
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        columns = (columns or cells) if cells else []
        seconds = next((name for name in SECONDS if name in columns), "")
        if cells and cells is not columns and columns[0] == "fault" and seconds and not cells[0].startswith("-"):
            row = dict(zip(columns, cells, strict=True))
            yield Row(row["fault"], row.get("found", ONE_STREAM), row[seconds], page, section)


def known_rows(root: Path) -> dict[str, Row]:
    """The row of each bug that the pages below a folder have one of."""
    texts = {page: (root / "docs" / page).read_text(encoding="utf-8") for page in reversed(SOURCES)}
    rows = [row for page, text in texts.items() for row in rows_of(page, text)]
    return {row.fault: row for row in sorted(rows, key=lambda row: row.found != ONE_STREAM)}


def as_markdown(rows: dict[str, Row]) -> str:
    """The page. Raises KeyError for a bug that has no row."""
    lines = [
        HEAD,
        "| bug | what is wrong | stage | found | seconds | measured |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for fault in load_faults().values():
        row = rows[fault.id]
        anchor = row.section.lower().replace(" ", "-")
        where = f"[{row.section or 'the first table'}]({row.page}{'#' + anchor if anchor else ''})"
        lines.append(f"| {fault.id} | {fault.title} | {fault.stage} | {row.found} | {row.seconds} | {where} |")
    return "\n".join(lines) + "\n"


def main(*, as_json: bool) -> int:
    """Write the page; 1 where a bug has no row, with their names."""
    rows = known_rows(ROOT)
    if missing := [name for name in load_faults() if name not in rows]:
        print(f"no page has figures of {', '.join(missing)}")  # noqa: T201
        return 1
    text = as_markdown(rows)
    write_text(text, ROOT / PAGE)
    print(json.dumps([asdict(rows[name]) for name in load_faults()], indent=1) if as_json else text)  # noqa: T201
    return 0
