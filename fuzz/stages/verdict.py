"""What a judge says about the outputs of a stage."""

from dataclasses import dataclass
from typing import Self

from indexfuzz.core.finding import Finding


@dataclass(frozen=True)
class Verdict:
    """What is wrong, and of bounded outputs the largest error as a share of its bound, and by which tier."""

    findings: tuple[Finding, ...] = ()
    ratio: float = 0.0
    tier: str = ""

    @classmethod
    def of(cls, *found: Finding | None) -> Self:
        """The verdict of what several checks found."""
        return cls(tuple(finding for finding in found if finding))
