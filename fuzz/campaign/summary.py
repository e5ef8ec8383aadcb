"""What a campaign did, counted from its events."""

from collections import Counter
from dataclasses import dataclass, field

from indexfuzz.campaign.events import CaseRun, Died, Event, Explained, Found, Known, Unrepeated, Unsupported
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.signature import Signature
from indexfuzz.generation.goals import Goals


@dataclass
class Width:
    """Shares of elements with more than one legal value: in so many cases, all together, and the largest."""

    cases: int = 0
    total: float = 0.0
    most: float = 0.0

    def add(self, share: float) -> None:
        """Take that of one more case."""
        self.cases, self.total, self.most = self.cases + 1, self.total + share, max(self.most, share)

    @property
    def mean(self) -> float:
        """The share in the average case."""
        return self.total / self.cases if self.cases else 0.0


@dataclass
class Summary:
    """Counters by stage and signature, the largest error per stage as a share of its bound, and the findings.

    `widths` are those of the operations of several nodes.

    `symptoms` are the other signatures under which the mistake of a finding was seen; `known` counts what was seen
    again, see `known_before` and `seen_again`. `beyond` counts how stages ended beyond their contract: clause -> stage
    -> ending. `unrepeated` tells of deaths of an isolated process that did not happen again with the same case,
    `deaths` are those of the campaign's own processes that did. `interrupted` is the signal that ended the campaign,
    or 0. `ordered` counts the launches in which somebody looked at the order of lanes, by kernel.
    """

    cases: int = 0
    seconds: float = 0.0
    stages: Counter[str] = field(default_factory=Counter)
    findings: list[Found] = field(default_factory=list)
    symptoms: dict[Signature, list[Signature]] = field(default_factory=dict)
    known: Counter[Signature] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)
    unsupported: Counter[str] = field(default_factory=Counter)
    ratios: dict[str, dict[str, float]] = field(default_factory=dict)
    widths: dict[str, Width] = field(default_factory=dict)
    unrepeated: list[str] = field(default_factory=list)
    deaths: list[Died] = field(default_factory=list)
    beyond: dict[str, dict[str, Counter[str]]] = field(default_factory=dict)
    interrupted: int = 0
    goals: Goals = field(default_factory=Goals)
    ordered: Counter[str] = field(default_factory=Counter)

    @property
    def known_before(self) -> dict[Signature, int]:
        """How often each signature was seen of what was known before the run."""
        own = {name for found in self.findings for name in (*_names_of(found), *self.symptoms_of(found))}
        return {signature: count for signature, count in self.known.items() if signature not in own}

    def seen_again(self, found: Found) -> int:
        """How often a finding of the run was seen after the first time."""
        return sum(self.known[signature] for signature in _names_of(found))

    def symptoms_of(self, found: Found) -> list[Signature]:
        """The other signatures under which the mistake of a finding was seen."""
        return [each for each in self.symptoms.get(found.finding.signature, ()) if each not in _names_of(found)]

    def hear(self, event: Event) -> None:
        """Count an event."""
        if isinstance(event, CaseRun):
            self._count(event.outcome)
        elif isinstance(event, Known):
            self.known[event.finding.signature] += 1
        elif isinstance(event, Explained):
            self.known[event.finding.signature] += 1
            self.findings = [found for found in self.findings if found.finding.signature != event.finding.signature]
        elif isinstance(event, Found):
            self.findings.append(event)
        elif isinstance(event, Unsupported):
            self.unsupported[event.message] += 1
        elif isinstance(event, Unrepeated):
            self.unrepeated.append(event.message)
        elif isinstance(event, Died) and event.again:
            self.deaths.append(event)

    def _count(self, outcome: Outcome) -> None:
        self.cases += 1
        self.stages.update(outcome.stages)
        self.outside.update(outcome.outside.keys())
        self.ordered.update(outcome.ordered)
        for clause, stage, ending in outcome.endings():
            self.beyond.setdefault(clause, {}).setdefault(stage, Counter())[ending] += 1
        for stage, width in outcome.widths.items():
            self.widths.setdefault(stage, Width()).add(width)
        for stage, ratio in outcome.ratios.items():
            tiers = self.ratios.setdefault(stage, {})
            tier = outcome.tiers[stage]
            tiers[tier] = max(tiers.get(tier, 0.0), ratio)


def _names_of(found: Found) -> set[Signature]:
    """The signature of a finding, and the one under which it was seen first."""
    return {found.finding.signature, found.seen_as or found.finding.signature}
