"""Outputs that have one right value, bit for bit: gathered keys and scales, passed-through data, untouched memory."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.finding import Finding, complaint


def same_bits(
    output: str,
    got: Tensor,
    want: Tensor,
    *,
    axes: Sequence[str],
    poison: Tensor | None = None,
    alternatives: Mapping[str, Callable[[], Tensor]] | None = None,
    kind: str = "code-mismatch",
) -> Finding | None:
    """``got`` and ``want``, of one shape and dtype with the named axes, must be equal bit for bit.

    ``poison``, a tensor like ``got`` with what it held before, turns wrong elements that never changed into
    "unwritten". ``alternatives`` maps the name of a layout to what ``got`` would be if that one had been read
    (``got`` itself where that is not known): if one explains everything, the kind is "layout-mismatch".
    """
    wrong = describe.bits(got) != describe.bits(want)
    if not bool(wrong.any()):
        return None
    index = describe.first(wrong)
    where = describe.place(index, axes)
    words = describe.summary(got.float(), want.float(), wrong, axes)
    sentence = f"{where} is {describe.text(got[index])}, must be {describe.text(want[index])}; {words}"
    if poison is not None and bool((describe.bits(got) == describe.bits(poison))[wrong].all()):
        kind, sentence = "unwritten", f"{where} was never written, must be {describe.text(want[index])}; {words}"
    else:
        for name, read in (alternatives or {}).items():
            other = read()
            if bool((describe.bits(got) == describe.bits(other)).all()):
                kind, sentence = "layout-mismatch", f"was read as the {name.upper()} layout: {sentence}"
                break
    return complaint(kind, output, sentence, index, describe.text(got[index]), describe.text(want[index]))
