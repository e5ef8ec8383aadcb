"""Outputs that have one right value, bit for bit: gathered keys and scales, passed-through data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.finding import Finding, complaint


def check_bits(
    output: str,
    got: Tensor,
    want: Tensor,
    *,
    axes: Sequence[str],
    before: Tensor | None = None,
    layouts: Mapping[str, Callable[[], Tensor]] | None = None,
) -> Finding | None:
    """Complain unless ``got`` and ``want``, of one shape and dtype with the named axes, are equal bit for bit.

    ``before``, a tensor like ``got``, is what the memory held: wrong elements that never changed are "unwritten".
    ``layouts`` maps the name of a layout to what ``got`` would be if that one had been read (``got`` itself where that
    is not known): if one explains everything, the kind is "layout-mismatch".
    """
    wrong = describe.bits(got) != describe.bits(want)
    if not bool(wrong.any()):
        return None
    index = describe.first(wrong)
    where, must = describe.place(index, axes), describe.text(want[index])
    words = describe.summary(got.float(), want.float(), wrong, axes)
    taken_for, kind, detail = "", "code-mismatch", f"{where} is {describe.text(got[index])}, must be {must}; {words}"
    if before is not None and describe.is_unchanged(got, before, wrong):
        kind, detail = "unwritten", f"{where} was never written, must be {must}; {words}"
    else:
        for name, read in (layouts or {}).items():
            if bool((describe.bits(got) == describe.bits(read())).all()):
                taken_for, kind, detail = name, "layout-mismatch", f"was read as the {name.upper()} layout: {detail}"
                break
    found = complaint(kind, output, detail, index, describe.text(got[index]), must, hint=words.hint)
    return replace(found, layout=taken_for)
