"""What a judge says about the outputs of a stage."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from indexfuzz.core.finding import Finding

Tensors = Mapping[str, Tensor]
"""Tensors by the names of arguments or outputs."""


@dataclass(frozen=True)
class Verdict:
    """What is wrong, and of bounded outputs the largest error as a share of its bound, and by which tier."""

    findings: tuple[Finding, ...] = ()
    ratio: float = 0.0
    tier: str = ""


def verdict(*found: Finding | None) -> Verdict:
    """The verdict of what several checks found."""
    return Verdict(tuple(finding for finding in found if finding))
