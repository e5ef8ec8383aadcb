"""What a judge says, and the form of outputs that every judge looks at first."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from indexfuzz.checks import shape
from indexfuzz.checks.mismatch import Mismatch
from indexfuzz.core.finding import Finding

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Verdict:
    """What a judge says: mismatches, and for bounded outputs the largest error as a share of its bound."""

    mismatches: tuple[Mismatch, ...] = ()
    ratio: float = 0.0
    tier: str = ""

    def findings(self, stage: str) -> list[Finding]:
        """The mismatches as findings about a stage."""
        return [
            Finding(stage, m.kind, m.output, m.detail, m.feature, m.index, m.got, m.want, m.tier)
            for m in self.mismatches
        ]


def verdict(*found: Mismatch | None) -> Verdict:
    """The verdict of what several checks found."""
    return Verdict(tuple(mismatch for mismatch in found if mismatch))


def wrong_form(got: Tensors, **forms: tuple[tuple[int, ...], torch.dtype]) -> Verdict | None:
    """A verdict when returned tensors have not the shape and dtype that later stages need."""
    found = [shape.form(name, got[name], shape=size, dtype=dtype) for name, (size, dtype) in forms.items()]
    return verdict(*found) if any(found) else None
