"""The story of a run, as its log tells it."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from indexfuzz.campaign.log import CaseLine, End, FindingLine, MessageLine, Start
from indexfuzz.campaign.log_reader import read_lines


@dataclass
class Story:
    """What happened: `cases` and `findings` are the seconds at which each of them came.

    `found` has the last word on each signature, `known` counts those that were known before, `messages` are of what
    could not run and of processes that died. `end` is None where the run died before it could say so.
    """

    start: Start
    cases: list[float] = field(default_factory=list)
    findings: list[float] = field(default_factory=list)
    stages: Counter[str] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    found: dict[str, FindingLine] = field(default_factory=dict)
    messages: Counter[str] = field(default_factory=Counter)
    end: End | None = None

    @property
    def seconds(self) -> float:
        """How long it took, as far as the log goes."""
        return self.end.t if self.end else max([*self.cases[-1:], *self.findings[-1:]], default=0.0)


def read_story(path: Path) -> Story:
    """Read a log. The last line of a run that was killed may be cut; it is left out.

    Raises LogError.
    """
    lines = read_lines(path)
    first = next(lines)
    if not isinstance(first, Start):
        raise TypeError(f"{path}: the first line is a {first.event}")
    story = Story(first)
    for line in lines:
        if isinstance(line, Start):
            story = Story(line)
        else:
            _add(story, line)
    return story


def _add(story: Story, line: CaseLine | FindingLine | MessageLine | End) -> None:
    if isinstance(line, CaseLine):
        story.cases.append(line.t)
        story.stages.update(line.stages)
        story.outside.update(line.outside)
    elif isinstance(line, MessageLine):
        story.messages[line.message] += 1
    elif isinstance(line, End):
        story.end = line
    elif line.event == "known":
        story.known[line.signature] += 1
    elif line.event == "explained":
        story.found.pop(line.signature, None)
    else:
        if line.event == "seen":
            story.findings.append(line.t)
        if line.seen_as:
            story.found.pop(line.seen_as, None)
        story.found[line.signature] = line
