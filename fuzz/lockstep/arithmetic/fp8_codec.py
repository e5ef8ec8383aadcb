"""FP8 formats: encoding from fp32 by table lookup and decoding to fp32, with the rules of compiled Triton kernels.

Encoding rounds to nearest even and saturates. Rounding to at most three fraction bits depends only on the sign, the
exponent, the top four fraction bits and whether any lower bit is set, so 14 bits of index reach every case.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexfuzz.lockstep.arithmetic.nan import NAN_BITS

_DROPPED_BITS: Final = 19
"""fp32 fraction bits that count only as "any of them set"."""


@dataclass(frozen=True)
class Fp8Format:
    """One FP8 format and what its encoder does outside the finite range.

    `max_code` is the largest finite positive code, `nan_code` what a NaN encodes to (its sign is dropped) and
    `infinity_code` what +inf encodes to; -inf sets the sign bit unless the format is `unsigned_zero` (fnuz), where
    code 0x80 is the only NaN and -0 encodes to 0x00.
    """

    name: str
    fraction_bits: int
    bias: int
    max_code: int
    nan_code: int
    infinity_code: int
    unsigned_zero: bool

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal number, and of every subnormal one."""
        return 1 - self.bias

    @property
    def max_finite(self) -> float:
        """Largest finite value, to which the encoder saturates."""
        return float(_finite_value(self, self.max_code))


FORMATS: Final[dict[str, Fp8Format]] = {
    f.name: f
    for f in (
        Fp8Format("e4m3fn", 3, 7, 0x7E, 0x7F, 0x7E, unsigned_zero=False),
        Fp8Format("e4m3fnuz", 3, 8, 0x7F, 0x80, 0x80, unsigned_zero=True),
        Fp8Format("e4m3b11fnuz", 3, 11, 0x7F, 0x80, 0x80, unsigned_zero=True),
        Fp8Format("e5m2", 2, 15, 0x7B, 0x7F, 0x7B, unsigned_zero=False),
        Fp8Format("e5m2fnuz", 2, 16, 0x7F, 0x80, 0x80, unsigned_zero=True),
    )
}
"""Name to format. e5m2 saturates infinities too (cvt.satfinite); its codes 0x7c and 0xfc still decode to infinities."""


def encode_fp8(x: NDArray[np.float32], fmt: str) -> NDArray[np.uint8]:
    """Encode fp32 values of any shape as FP8 codes: round to nearest even, saturate.

    bf16 and fp16 values are passed in their fp32 container. e4m3fn: ±inf becomes ±448, NaN 0x7f. fnuz formats: ±inf and
    NaN become 0x80, -0 becomes 0x00. Raises KeyError for an unknown format, TypeError for another dtype.
    """
    if x.dtype != np.float32:
        message = f"encode_fp8 takes float32, not {x.dtype}: another type would be rounded twice"
        raise TypeError(message)
    bits = np.asarray(x).view(np.uint32)
    index = np.asarray(bits >> (_DROPPED_BITS - 1))
    index &= np.uint32(0xFFFFFFFE)
    index |= (bits & np.uint32((1 << _DROPPED_BITS) - 1)) != 0
    return np.asarray(np.take(_encode_table(fmt), index))


def decode_fp8(codes: NDArray[np.uint8], fmt: str) -> NDArray[np.float32]:
    """Decode FP8 codes of any shape to the fp32 values they stand for; NaN codes give the fp32 NaN 0x7fffffff.

    Raises KeyError for an unknown format.
    """
    return np.asarray(np.take(_decode_table(fmt), codes))


@np.errstate(invalid="ignore")
def truncate_to_e5m2(x: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Encode fp32 values as e5m2 toward zero, as `fp_downcast_rounding="rtz"` does: the upper byte of a truncated fp16.

    A finite value never becomes infinite; ±inf stays itself (0x7c, 0xfc); NaN becomes 0x7f.
    """
    magnitude = np.abs(x).astype(np.float64)
    exponent = _exponent(magnitude, FORMATS["e5m2"])
    steps = np.floor(np.ldexp(magnitude, 2 - exponent))
    code = np.minimum(steps + 4.0 * (exponent - FORMATS["e5m2"].min_exponent), 0x7B)
    code = np.where(np.isinf(magnitude), 0x7C, np.where(np.isnan(magnitude), 0, code)).astype(np.uint8)
    signed = code | (np.signbit(x).astype(np.uint8) << np.uint8(7))
    return np.where(np.isnan(x), np.uint8(0x7F), signed)


@cache
def _encode_table(fmt: str) -> NDArray[np.uint8]:
    """Code of every (sign, exponent, four fraction bits, sticky) index, shape [16384]."""
    f = FORMATS[fmt]
    index = np.arange(1 << (33 - _DROPPED_BITS), dtype=np.uint32)
    x = (((index >> 1) << _DROPPED_BITS) | (index & 1)).view(np.float32)
    finite = np.isfinite(x)
    magnitude = np.where(finite, np.abs(x), np.float32(0)).astype(np.float64)
    exponent = _exponent(magnitude, f)
    steps = np.rint(np.ldexp(magnitude, f.fraction_bits - exponent)).astype(np.int64)
    code = steps + ((exponent - f.min_exponent) << f.fraction_bits)
    code = np.where(finite, np.minimum(code, f.max_code), f.infinity_code)
    negative = np.signbit(x) & ~(f.unsigned_zero & (code == 0))
    code = np.where(np.isnan(x), f.nan_code, code | np.where(negative, 0x80, 0)).astype(np.uint8)
    code.flags.writeable = False
    return code


@cache
def _decode_table(fmt: str) -> NDArray[np.float32]:
    """Value of every code, shape [256]."""
    f = FORMATS[fmt]
    codes = np.arange(256)
    magnitude = _finite_value(f, codes & 0x7F)
    values = np.where(codes & 0x80, -magnitude, magnitude).astype(np.float32)
    if f.unsigned_zero:
        nan = codes == f.nan_code
    else:
        nan = (codes & 0x7F) > f.max_code
        # With two fraction bits IEEE's infinity sits between the largest finite code and the NaNs.
        infinite = nan & ((codes & 0x7F) == f.max_code + 1) & (f.name == "e5m2")
        values = np.where(infinite, np.where(codes & 0x80, -np.inf, np.inf), values).astype(np.float32)
        nan &= ~infinite
    values.view(np.uint32)[nan] = NAN_BITS
    values.flags.writeable = False
    return values


def _exponent(magnitude: NDArray[np.float64], f: Fp8Format) -> NDArray[np.int64]:
    """Exponent of each magnitude in the format, that of the subnormals for zero (for which frexp says 0)."""
    exponent = np.frexp(magnitude)[1].astype(np.int64) - 1
    return np.where(magnitude > 0, np.maximum(exponent, f.min_exponent), f.min_exponent)


def _finite_value(f: Fp8Format, magnitude: NDArray[np.int64] | int) -> NDArray[np.float64]:
    """Value of the seven magnitude bits of a code, as if it were finite."""
    field = np.asarray(magnitude) >> f.fraction_bits
    fraction = np.asarray(magnitude) & ((1 << f.fraction_bits) - 1)
    significand = fraction + np.where(field > 0, 1 << f.fraction_bits, 0)
    return np.asarray(np.ldexp(significand.astype(np.float64), np.maximum(field, 1) - f.bias - f.fraction_bits))
