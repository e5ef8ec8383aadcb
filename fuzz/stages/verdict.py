"""What a judge says about the outputs of a stage."""

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from indexfuzz.core.finding import Finding
from indexfuzz.reference.intervals import Interval


@dataclass(frozen=True)
class Verdict:
    """What is wrong, and of bounded outputs the largest error as a share of its bound, and by which tier.

    `width`, of outputs of composed nodes, is the share of elements that have more than one legal value.
    """

    findings: tuple[Finding, ...] = ()
    ratio: float = 0.0
    tier: str = ""
    width: float | None = None

    @classmethod
    def of(cls, *found: Finding | None) -> Self:
        """The verdict of what several checks found."""
        return cls(tuple(finding for finding in found if finding))


def open_share(*intervals: Interval) -> float:
    """The share of elements of all intervals whose ends differ; 0 of none."""
    several = sum(int((x.low != x.high).sum()) for x in intervals)
    return several / max(sum(x.low.numel() for x in intervals), 1)


def width(low: Tensor, high: Tensor) -> float:
    """The share of elements whose smallest and largest legal code stand for different values; 0 of none."""
    differ = (low != high) & ((low | high) & 0x7F != 0)
    return float(differ.double().mean()) if low.numel() else 0.0
