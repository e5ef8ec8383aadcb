"""Top-k recall: of the keys that a right indexer selects, the share that a faulty one selects, too."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from indexfuzz.core.case import Case

SHARE = 8
"""One of so many keys is selected."""

FEWEST = 64
"""Keys of a request that leave enough of a choice."""


@dataclass(frozen=True)
class Recall:
    """Of the reference's selections, the share that was selected too, over the rows that have a choice.

    `mean` and `worst` are over `rows`; `blind` is what a choice at random gives. `failed` says what the implementation
    raised, where it selected nothing.
    """

    case: Case
    mean: float
    worst: float
    blind: float
    rows: int
    failed: str = ""

    @classmethod
    def of(cls, case: Case, shares: Sequence[Tensor], blind: Sequence[Tensor], failed: str = "") -> "Recall":
        """From the shares of rows that have a choice, and what a choice at random gives in them.

        Raises SeverityError when there is no such row.
        """
        share = torch.cat([*shares]) if shares else torch.empty(0)
        if not len(share):
            raise SeverityError("no row of the grown case has more keys than it may select")
        return cls(case, float(share.mean()), float(share.min()), float(torch.cat([*blind]).mean()), len(share), failed)


class SeverityError(Exception):
    """No recall can be measured. One sentence that says why."""


def shared(right: Tensor, got: Tensor) -> Tensor:
    """For each row, the share of `right` that is also in `got`; both [rows, k], -1 for no selection."""
    chosen = right >= 0
    found = ((right.unsqueeze(2) == got.unsqueeze(1)).any(2) & chosen).sum(1)
    return found.double() / chosen.sum(1).clamp_min(1)
