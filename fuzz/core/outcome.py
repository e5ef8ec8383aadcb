"""What one case showed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from indexfuzz.core.case import Case
from indexfuzz.core.comparison import Comparison
from indexfuzz.core.finding import Finding

Ending = Literal["refused cleanly", "right nevertheless", "wrong silently", "crashes"]
"""What became of a stage on a case that breaks its contract; the worst is the last."""

SEVERAL = "several clauses at once"


@dataclass
class Outcome:
    """What one case showed.

    `consequences` are what `findings` of the same launch explain; any of them may be a bug of its own.

    `stages` ran; `outside` maps those that did not to why the contract excludes them; `ratios` holds, for each stage
    with a bound, the largest error as a share of what was allowed, and `tiers` the oracle that set the bound.
    `widths` holds, for each operation of several nodes, the share of its elements with more than one legal value.
    `refused` maps stages that rejected the case, as they promise, to why. `beyond` says how stages ended whose contract
    the case breaks, and which clause: stage -> clause -> ending. `comparisons` are those of the Python code under test,
    each with the same operands once. `reached` is what the case reached of the code and of its classes, in a
    few words each, where the subject looks at that. `ordered` counts the launches, by kernel, in which somebody looked
    whether lanes of one program depend on each other's order.
    """

    case: Case
    findings: list[Finding] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    outside: dict[str, str] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    tiers: dict[str, str] = field(default_factory=dict)
    widths: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    beyond: dict[str, dict[str, Ending]] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    reached: frozenset[str] = frozenset()
    ordered: dict[str, int] = field(default_factory=dict)
    consequences: list[Finding] = field(default_factory=list)

    def endings(self) -> Iterator[tuple[str, str, Ending]]:
        """(clause, stage, ending) of every stage beyond its contract, those included that took their process down."""
        for finding in self.findings:
            if finding.beyond and finding.kind in ("crash", "hang") and finding.stage not in self.beyond:
                yield one_clause(finding.beyond), finding.stage, "crashes"
        for stage, clauses in self.beyond.items():
            for clause, ending in clauses.items():
                yield one_clause(clause), stage, ending


def one_clause(broken: str) -> str:
    """The clause that a case breaks; where there are several, nobody knows which of them matters."""
    return SEVERAL if "; " in broken else broken
