"""The story of a run, as its log tells it."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from indexfuzz.campaign.log import CaseLine, End, FindingLine, MessageLine, Start
from indexfuzz.campaign.log_reader import read_lines


@dataclass
class Story:
    """What happened: `cases` and `findings` are the seconds at which each of them came.

    `found` has the last word on each signature, `again` counts what says nothing new, `causes` has of some signatures
    the one whose symptoms they are. `messages` are of what could not run and of processes that died. `end` is None
    where the run died before it could say so.
    """

    start: Start
    cases: list[float] = field(default_factory=list)
    findings: list[float] = field(default_factory=list)
    stages: Counter[str] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)
    again: Counter[str] = field(default_factory=Counter)
    causes: dict[str, str] = field(default_factory=dict)
    found: dict[str, FindingLine] = field(default_factory=dict)
    messages: Counter[str] = field(default_factory=Counter)
    end: End | None = None

    @property
    def seconds(self) -> float:
        """How long it took, as far as the log goes."""
        return self.end.t if self.end else max([*self.cases[-1:], *self.findings[-1:]], default=0.0)

    @property
    def known(self) -> Counter[str]:
        """How often each signature was seen of what was known before the run."""
        own = set[str]().union(*map(self._names_of, self.found))
        return Counter({name: count for name, count in self.again.items() if self._cause_of(name) not in own})

    def seen_again(self, signature: str) -> int:
        """How often a finding of the run was seen after the first time."""
        return sum(self.again[name] for name in self._names_of(signature))

    def symptoms(self, signature: str) -> list[str]:
        """The other signatures under which the mistake of a finding was seen."""
        own = self._names_of(signature)
        return [name for name in self.causes if self._cause_of(name) in own and name not in own]

    def _names_of(self, signature: str) -> set[str]:
        """The signature of a finding, and the one under which it was seen first."""
        line = self.found.get(signature)
        return {signature, line.seen_as if line and line.seen_as else signature}

    def _cause_of(self, signature: str) -> str:
        met = {signature}
        while (cause := self.causes.get(signature, signature)) not in met:
            met.add(signature := cause)
        return signature


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
    elif line.event in ("known", "explained"):
        story.again[line.signature] += 1
        if line.by:
            story.causes[line.signature] = line.by
        if line.event == "explained":
            story.found.pop(line.signature, None)
    else:
        if line.event == "seen":
            story.findings.append(line.t)
        if line.seen_as:
            story.found.pop(line.seen_as, None)
        story.found[line.signature] = line
