"""E2M1, the 4-bit numbers of MXFP4: 0, 0.5, 1, 1.5, 2, 3, 4 and 6, with a sign; two to a byte, its low half first."""

import triton
import triton.language as tl

LARGEST = 6.0


@triton.jit
def encode_pairs(x):
    """The values of x [rows, dims] fp32 as E2M1, uint8 [rows, dims / 2]: to the nearest, ties to even, 6 at most."""
    rows: tl.constexpr = x.shape[0]
    dims: tl.constexpr = x.shape[1]
    size = tl.abs(x)
    # A midpoint counts where the code above it is even.
    code = (size > 0.25).to(tl.int32) + (size >= 0.75).to(tl.int32) + (size > 1.25).to(tl.int32)
    code += (size >= 1.75).to(tl.int32) + (size > 2.5).to(tl.int32) + (size >= 3.5).to(tl.int32)
    code += (size > 5.0).to(tl.int32)
    code |= (x.to(tl.int32, bitcast=True) >> 28) & 8
    low, high = tl.split(tl.reshape(code, [rows, dims // 2, 2]))
    return (low | (high << 4)).to(tl.uint8)


@triton.jit
def decode_pairs(packed):
    """The values of E2M1 bytes uint8 [rows, n], fp32 [rows, 2 n]."""
    rows: tl.constexpr = packed.shape[0]
    count: tl.constexpr = packed.shape[1]
    code = packed.to(tl.int32)
    code = tl.reshape(tl.join(code & 15, code >> 4), [rows, 2 * count])
    exponent, mantissa = (code >> 1) & 3, code & 1
    quarters = tl.where(exponent == 0, 2 * mantissa, (2 + mantissa) << exponent)
    value = quarters.to(tl.float32) * 0.25
    return tl.where(code >= 8, -value, value)


@triton.jit
def to_bytes(values, dtype: tl.constexpr):
    """Scaled values [rows, dims] fp32 as they are stored: one a byte in an FP8 dtype, or two in uint8."""
    # Triton goes on behind a return in an `if` of constants, and wants one type of both.
    return encode_pairs(values) if dtype == tl.uint8 else values.to(dtype)
