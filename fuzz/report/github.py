"""Findings where GitHub shows them: at the line of the kernel, and in the summary of the job.

Workflow commands and the file for the summary are described in GitHub's documentation, "Workflow commands for GitHub
Actions".
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from indexfuzz.core.words import location_from_here
from indexfuzz.report.places import place_in_checkout

MOST_ANNOTATIONS = 10
"""GitHub shows so many errors of a step, and says nothing of others."""


@dataclass(frozen=True)
class Shown:
    """A finding as a CI shows it: `location` is a "file:line" or empty, `again` the command that shows it once more."""

    signature: str
    detail: str
    location: str
    file: str
    again: str


def publish(heading: str, told: Iterable[Shown], environment: Mapping[str, str], stream: TextIO) -> None:
    """Annotate the findings of a step and add to the summary of its job; nothing is asked for where no such step runs.

    A summary that cannot be written is none: the findings are on the terminal and in the corpus, too.
    """
    if environment.get("GITHUB_ACTIONS") != "true":
        return
    findings = list(told)
    stream.writelines(line + "\n" for line in annotations(findings))
    if path := environment.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(summarise(heading, findings))
        except OSError as error:
            stream.write(f"::warning::{_escape(f'cannot write the job summary: {error.strerror}')}\n")


def annotations(findings: Sequence[Shown]) -> Iterator[str]:
    """Workflow commands, one for each finding that GitHub shows, and one that says how many more there are."""
    for each in findings[:MOST_ANNOTATIONS]:
        file, line = place_in_checkout(each.location)
        place = f"file={_escape_property(file)},line={line}," if file else ""
        title = _escape_property(each.signature)
        yield f"::error {place}title={title}::{_escape(f'{each.detail}{chr(10)}again: {each.again}')}"
    if (more := len(findings) - MOST_ANNOTATIONS) > 0:
        yield f"::notice title=IndexFuzz::{more} more finding{'' if more == 1 else 's'} in the summary of the job"


def summarise(heading: str, findings: Sequence[Shown]) -> str:
    """Markdown: a heading, and a line with its command for each finding."""
    lines = [f"### {_plain(heading)}", ""]
    if not findings:
        lines.append("Nothing new.")
    for each in findings:
        at = f" at {_code(location_from_here(each.location))}" if each.location else ""
        lines += [f"- {_code(each.signature)}{at}: {_plain(each.detail)}", f"  - kept as {_code(each.file)}"]
        lines += [f"  - again: {_code(each.again)}"]
    return "\n".join(lines) + "\n\n"


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    return _escape(text).replace(":", "%3A").replace(",", "%2C")


def _code(text: str) -> str:
    """Text as code: between more backticks in a row than it has itself."""
    ticks = "`"
    while ticks in text:
        ticks += "`"
    return f"{ticks} {text} {ticks}" if len(ticks) > 1 else f"`{text}`"


def _plain(text: str) -> str:
    """Text on one line in which nothing is markup."""
    marked = "".join(f"\\{letter}" if letter in r"\`*_{}[]<>#|~!" else letter for letter in text)
    return " ".join(marked.split())
