"""Values of which the smallest and the largest legal one are known, element by element."""

from collections.abc import Sequence

from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.finding import Finding, complaint


def check_between(
    output: str, got: Tensor, low: Tensor, high: Tensor, *, axes: Sequence[str], before: Tensor, names: Sequence[int]
) -> Finding | None:
    """Complain unless every element of ``got`` lies between ``low`` and ``high``, of one shape and dtype; NaN never.

    ``names`` gives the rows of the first axis their numbers. ``before`` is what the memory held: where all wrong
    elements still hold it they are "unwritten".
    """
    wrong = ~((got >= low) & (got <= high))
    if not bool(wrong.any()):
        return None
    index = describe.first(wrong)
    named = (names[index[0]], *index[1:])
    where, seen = describe.place(named, axes), describe.text(got[index])
    want = f"in [{float(low[index]):.9g}, {float(high[index]):.9g}]"
    middle = (low.double() + high.double()) / 2
    words = describe.summary(got.float(), middle.float(), wrong, axes)
    if describe.is_unchanged(got, before, wrong):
        return complaint("unwritten", output, f"{where} was never written, must be {want}; {words}", named, seen, want)
    detail = f"{where} is {seen}, must be {want}; {words}"
    return complaint("bound-exceeded", output, detail, named, seen, want, hint=words.hint)
