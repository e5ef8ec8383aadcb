"""What one case showed."""

from dataclasses import dataclass, field

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding


@dataclass
class Outcome:
    """What one case showed.

    `stages` ran; `outside` maps those that did not to why the contract excludes them; `ratios` holds, for each stage
    with a bound, the largest error as a share of what was allowed, and `tiers` the oracle that set the bound.
    """

    case: Case
    findings: list[Finding] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    outside: dict[str, str] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    tiers: dict[str, str] = field(default_factory=dict)
