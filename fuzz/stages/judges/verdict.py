"""What a judge says, and the form of outputs that every judge looks at first."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from indexfuzz.checks import shape
from indexfuzz.core.finding import Finding

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Verdict:
    """What a judge says of a stage's outputs, and of bounded ones the largest error as a share of its bound."""

    findings: tuple[Finding, ...] = ()
    ratio: float = 0.0
    tier: str = ""


def verdict(*found: Finding | None) -> Verdict:
    """The verdict of what several checks found."""
    return Verdict(tuple(finding for finding in found if finding))


def wrong_form(got: Tensors, **forms: tuple[tuple[int, ...], torch.dtype]) -> Verdict | None:
    """A verdict when returned tensors have not the shape and dtype that later stages need."""
    found = [shape.form(name, got[name], shape=size, dtype=dtype) for name, (size, dtype) in forms.items()]
    return verdict(*found) if any(found) else None
