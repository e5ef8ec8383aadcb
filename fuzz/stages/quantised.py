"""Rows that a stage quantises to FP8: which scales and codes are legal."""

from functools import partial

from torch import Tensor

from indexfuzz.checks.quant import LegalRows
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.reference import fp8, legal
from indexfuzz.stages.base import Call


def legal_rows(x: Tensor, given: Call, guarantees: Guarantees) -> LegalRows:
    """What the rows of x [..., D] may become by the options of a call, in the arithmetic of a device."""
    form, arithmetic = given.options["fp8"], guarantees.quantising
    return LegalRows(
        legal.legal_scales(x, scale_fmt=given.options["scale_fmt"], fp8=form, arithmetic=arithmetic),
        partial(legal.legal_codes, x, fp8=form, arithmetic=arithmetic),
        fp8.FORMATS[form].dtype,
    )
