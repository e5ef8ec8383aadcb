"""The 8-bit floating-point formats, as tables: exact on every device and every version of torch.

torch's own float8 casts are not used: their overflow rules changed between releases. Neither are ``log2`` and ``pow``,
which are not exact at powers of two on every device. Codes travel as ``uint8``.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import nextafter

import torch
from torch import Tensor

C: dict[str, float] = {"e4m3fn": 448.0, "e4m3fnuz": 224.0, "e2m1": 6.0}
"""The magnitude that the largest element of a quantised row is scaled to; e2m1 is in reference/nibbles.py."""

AMAX_FLOOR: float = float(torch.tensor(1e-4, dtype=torch.float32))
"""The smallest amax a scale is computed from: 1e-4 as fp32 holds it."""


@dataclass(frozen=True)
class Format:
    """A sign bit, an exponent field with ``bias``, ``mantissa_bits``; finite magnitudes are codes 0..max_code."""

    mantissa_bits: int
    bias: int
    max_code: int
    nan_code: int
    inf_code: int
    """What an infinity encodes to, sign aside."""
    dtype: torch.dtype

    @property
    def has_negative_zero(self) -> bool:
        """Whether -0 has a code; where it has none, that code is the NaN."""
        return self.nan_code != 0x80

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal number; subnormals share it."""
        return 1 - self.bias

    def magnitude(self, code: int) -> float:
        """Value of the non-negative finite code ``code`` (exact)."""
        field, mantissa = code >> self.mantissa_bits, code & ((1 << self.mantissa_bits) - 1)
        significand = mantissa / (1 << self.mantissa_bits) + (1 if field else 0)
        return significand * 2.0 ** (max(field, 1) - self.bias)


FORMATS: dict[str, Format] = {
    "e4m3fn": Format(mantissa_bits=3, bias=7, max_code=0x7E, nan_code=0x7F, inf_code=0x7E, dtype=torch.float8_e4m3fn),
    "e4m3fnuz": Format(
        mantissa_bits=3, bias=8, max_code=0x7F, nan_code=0x80, inf_code=0x80, dtype=torch.float8_e4m3fnuz
    ),
    "e5m2": Format(mantissa_bits=2, bias=15, max_code=0x7B, nan_code=0x7F, inf_code=0x7B, dtype=torch.float8_e5m2),
}

_NAMES = {form.dtype: name for name, form in FORMATS.items()}


def format_of(tensor: Tensor) -> str:
    """Name of the FP8 format of ``tensor``; ValueError if its dtype is not one of them."""
    name = _NAMES.get(tensor.dtype)
    if name is None:
        raise ValueError(f"expected an FP8 tensor, got {tensor.dtype}")
    return name


def codes(tensor: Tensor) -> Tensor:
    """The bytes of an FP8 tensor (any strides) as uint8, sharing its memory; a uint8 tensor comes back as it is."""
    return tensor if tensor.dtype == torch.uint8 else tensor.view(torch.uint8)


def as_fp8(code: Tensor, fmt: str) -> Tensor:
    """The uint8 tensor ``code`` seen as an FP8 tensor of ``fmt``, sharing its memory."""
    return code.view(FORMATS[fmt].dtype)


def midpoints(fmt: str) -> list[float]:
    """Rounding midpoints between neighbouring non-negative codes: entry i lies between codes i and i + 1 (exact)."""
    form = FORMATS[fmt]
    return [(form.magnitude(i) + form.magnitude(i + 1)) / 2 for i in range(form.max_code)]


def decode(code: Tensor, fmt: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Values of uint8 codes, exact in ``dtype`` (fp32 or wider). NaN codes give NaN."""
    return look_up(_decode_table(fmt, dtype, code.device), code)


def encode(x: Tensor, fmt: str) -> Tensor:
    """uint8 codes of ``x`` (bf16, fp32 or fp64): round to nearest even, finite overflow saturates.

    Infinities saturate as well, save in e4m3fnuz, where they give NaN as the hardware does. NaN gives the format's
    positive NaN code. e4m3fnuz has no negative zero: whatever rounds to zero is 0x00.
    """
    if x.dtype == torch.float64:
        return _encode_by_search(x, fmt)
    # Cut to bf16, any bit lost kept in the last one: neither a rounding midpoint nor a limit lies between the two.
    bits = x.float().contiguous().view(torch.int32)
    cut = (bits & 0xFFFF).add_(0xFFFF).bitwise_or_(bits).bitwise_right_shift_(16).bitwise_and_(0xFFFF)
    return look_up(_encode_table(fmt, x.device), cut)


def look_up(table: Tensor, index: Tensor) -> Tensor:
    """Elements of a 1-D table, for an index tensor of any shape."""
    return torch.index_select(table, 0, index.reshape(-1).int()).view(index.shape)


@lru_cache(maxsize=16)
def _encode_table(fmt: str, device: torch.device) -> Tensor:
    """Codes of all bf16 bit patterns."""
    pattern = torch.arange(1 << 16, dtype=torch.int32, device=device) << 16
    return _encode_by_search(pattern.view(torch.float32).double(), fmt)


def _encode_by_search(value: Tensor, fmt: str) -> Tensor:
    """`encode` for fp64."""
    form = FORMATS[fmt]
    code = torch.bucketize(value.abs(), _thresholds(fmt, value.device))
    negative = torch.signbit(value)
    if not form.has_negative_zero:
        negative = negative & (code > 0)
        code = torch.where(torch.isinf(value), form.inf_code, code)
    code = code | (negative.long() << 7)
    return torch.where(torch.isnan(value), form.nan_code, code).to(torch.uint8)


def power_of_two(exponent: Tensor) -> Tensor:
    """2**exponent as fp64, built from its bits. ``exponent``: integers in [-1022, 1023]."""
    return ((exponent.long() + 1023) << 52).view(torch.float64)


def ceil_log2(x: Tensor) -> Tensor:
    """Smallest k with x <= 2**k, for positive finite fp64 ``x``; int64."""
    mantissa, exponent = torch.frexp(x)
    return exponent.long() - (mantissa == 0.5).long()


@lru_cache(maxsize=64)
def _decode_table(fmt: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    form = FORMATS[fmt]
    half = [form.magnitude(i) for i in range(form.max_code + 1)]
    if fmt == "e5m2":
        half.append(float("inf"))
    half += [float("nan")] * (128 - len(half))
    both = half + [-value for value in half]
    if not form.has_negative_zero:
        both[0x80] = float("nan")
    return torch.tensor(both, dtype=dtype, device=device)


@lru_cache(maxsize=16)
def _thresholds(fmt: str, device: torch.device) -> Tensor:
    # bucketize counts thresholds strictly below its argument. A tie between codes i and i + 1 goes to the even one: up
    # for odd i, which takes a threshold just below the midpoint.
    steps = [nextafter(mid, 0.0) if i % 2 else mid for i, mid in enumerate(midpoints(fmt))]
    return torch.tensor(steps, dtype=torch.float64, device=device)
