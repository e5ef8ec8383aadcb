"""Rotated q and k: each element must be one of the values that some legal fp32 evaluation rounds to."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.finding import Finding, complaint


def check_rope(
    output: str,
    got: Tensor,
    legal: Tensor,
    *,
    axes: Sequence[str],
    before: Tensor | None = None,
    explanations: Mapping[str, Callable[[], Tensor]] | None = None,
) -> Finding | None:
    """Complain unless every element of ``got`` equals one of ``legal`` [n, *got.shape]; -0 equals 0.

    ``before``, a tensor like ``got``, is what its memory held: if all wrong elements still hold it, they are
    "unwritten". ``explanations`` maps a phrase ("was not rotated") to a callable with the tensor that ``got`` then
    equals.
    """
    values = got.float()
    wrong = ~is_member(values, legal.float())
    if not bool(wrong.any()):
        return None
    index = describe.first(wrong)
    want = " or ".join(sorted({describe.text(candidate[index]) for candidate in legal}))
    words = describe.summary(values, legal[0].float(), wrong, axes)
    where, seen = describe.place(index, axes), describe.text(got[index])
    if before is not None and describe.is_unchanged(got, before, wrong):
        return complaint("unwritten", output, f"{where} was never written, must be {want}; {words}", index, seen, want)
    detail = f"{where} is {seen}, must be {want}; {words}"
    for phrase, make in (explanations or {}).items():
        if bool(is_member(values, make().float().unsqueeze(0)).all()):
            hint = f"{output} {phrase}"
            return complaint("bound-exceeded", output, f"{hint}: {detail}", index, seen, want, hint=hint)
    return complaint("bound-exceeded", output, detail, index, seen, want, hint=words.hint)


def is_member(got: Tensor, legal: Tensor) -> Tensor:
    """Which elements of ``got`` equal one of ``legal`` [n, *got.shape]; NaN equals NaN."""
    return ((got == legal) | (got.isnan() & legal.isnan())).any(0)
