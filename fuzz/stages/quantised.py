"""Rows that a stage quantises to FP8: which scales and codes are legal."""

from functools import partial

import torch
from torch import Tensor

from indexfuzz.checks.quant import LegalRows
from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.reference import fp8, legal, quant
from indexfuzz.reference.nibbles import NAME
from indexfuzz.reference.scales import ScaleFormat
from indexfuzz.stages.base import Call


def scales_of(case: Case) -> dict[str, str]:
    """The option that names the form of the scales of keys; kernels that know fp32 alone are not told of it."""
    return {} if case.cache.scales == "fp32" else {"scales": case.cache.scales}


def format_of(call: Call, head_dim: int) -> ScaleFormat:
    """How the keys of a call are scaled."""
    return ScaleFormat.of(call.options.get("scales", "fp32"), call.options["quant_group"], head_dim)


def legal_rows(x: Tensor, given: Call, guarantees: Guarantees) -> LegalRows:
    """What the rows of x [..., D] may become by the options of a call, in the arithmetic of a device."""
    form, arithmetic = number_format(given), guarantees.quantising
    return LegalRows(
        legal.legal_scales(x, scale_fmt=given.options["scale_fmt"], fp8=form, arithmetic=arithmetic),
        partial(legal.legal_codes, x, fp8=form, arithmetic=arithmetic),
        code_dtype(form),
    )


def values_per_byte(call: Call) -> int:
    """How many values of a key share a byte of the cache."""
    return 2 if call.options.get("scales") == "mxfp4" else 1


def number_format(call: Call) -> str:
    """The format of the numbers that a call quantises to: e2m1 where keys are in MXFP4, else its FP8 format."""
    return NAME if values_per_byte(call) > 1 else call.options["fp8"]


def code_dtype(form: str) -> torch.dtype:
    """The dtype of the codes by which numbers of a format are judged."""
    return fp8.FORMATS[quant.holder(form)].dtype
