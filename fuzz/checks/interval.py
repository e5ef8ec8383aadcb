"""Values that must lie between two others, element by element."""

from collections.abc import Sequence

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.finding import Finding, complaint


def check_between(
    output: str, got: Tensor, low: Tensor, high: Tensor, *, axes: Sequence[str], before: Tensor | None = None
) -> Finding | None:
    """Complain unless low <= got <= high everywhere; low and high are fp64 of the shape of ``got``, or infinite.

    ``before``, a tensor like ``got``, is what its memory held: if all wrong elements still hold it, they are
    "unwritten". Where both ends are infinite anything is right, NaN included.
    """
    values = got.double()
    unknown = torch.isinf(low) & torch.isinf(high) & (low < high)
    wrong = ~((values >= low) & (values <= high)) & ~unknown
    if not bool(wrong.any()):
        return None
    index = describe.first(wrong)
    smallest, largest = float(low[index]), float(high[index])
    want = f"{smallest:.9g}" if smallest == largest else f"in [{smallest:.9g}, {largest:.9g}]"
    where, seen = describe.place(index, axes), describe.text(got[index])
    words = describe.summary(values, (low + high) / 2, wrong, axes)
    if before is not None and describe.is_unchanged(got, before, wrong):
        return complaint("unwritten", output, f"{where} was never written, must be {want}; {words}", index, seen, want)
    detail = f"{where} is {seen}, must be {want}; {words}"
    return complaint("bound-exceeded", output, detail, index, seen, want, hint=words.hint)
