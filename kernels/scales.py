"""UE8M0 scales of keys: four exponents, one for each quarter of a key's dims, packed to the int32 in an fp32's place.

Byte j of the word, lowest first, is the exponent of dims j * D/4 to (j + 1) * D/4: e stands for 2^(e - 127), 255 for
NaN. Keys that have one scale, as vLLM makes them for SM100, have four equal bytes. Keys in MXFP4 have D/2 bytes of
E2M1 values (kernels/nibbles.py) beside such a word; of 128 dims each exponent is that of 32 values. SHUFFLE-SCALES
pages have the bytes of such words interleaved.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from indexfuzz.kernels.checks import require, require_choice, require_quant_group
from indexfuzz.kernels.layout import TILE
from indexfuzz.kernels.nibbles import LARGEST
from indexfuzz.kernels.quant import FP8_DTYPES, QUANT_MAX, quantise_rows

BYTES = 4
"""Exponents of one word."""

SCALE_DTYPES = {"fp32": torch.float32, "ue8m0": torch.int32, "mxfp4": torch.int32}
"""What the scale of a key is in the cache, by the form of keys."""

SCALES = tuple(SCALE_DTYPES)


class Stored(NamedTuple):
    """How the values of keys lie in the cache: `key_bytes` to a key, of one dtype, up to `largest` in magnitude."""

    key_bytes: int
    dtype: torch.dtype
    largest: float


@triton.jit
def quantise_groups(x, QUANT_MAX: tl.constexpr, GROUPS: tl.constexpr, BYTES: tl.constexpr = BYTES):
    """Scale the GROUPS groups of dims of each row of x [rows, dims] fp32, as `quantise_rows` does rows.

    Returns the scaled values, and the exponents of their scales, packed: int32 [rows].
    """
    rows: tl.constexpr = x.shape[0]
    dims: tl.constexpr = x.shape[1]
    values, scale = quantise_rows(tl.reshape(x, [rows * GROUPS, dims // GROUPS]), QUANT_MAX, UE8M0=True)
    exponent = tl.reshape(scale.to(tl.int32, bitcast=True) >> 23, [rows, GROUPS])
    packed = tl.sum(exponent << (8 * tl.arange(0, BYTES))[None, :], axis=1)
    return tl.reshape(values, [rows, dims]), packed


@triton.jit
def dequantise_groups(values, packed, BYTES: tl.constexpr = BYTES):
    """FP8 values [keys, dims] times the scales of their quarters, packed int32 [keys]: bf16, which holds them."""
    keys: tl.constexpr = values.shape[0]
    dims: tl.constexpr = values.shape[1]
    exponent = (packed[:, None] >> (8 * tl.arange(0, BYTES))[None, :]) & 0xFF
    # 2^-127 is no normal number, and NaN no infinity: both have the highest bit of the mantissa.
    is_special = (exponent == 0) | (exponent == 0xFF)
    scale = ((exponent << 23) | tl.where(is_special, 1 << 22, 0)).to(tl.float32, bitcast=True)
    scaled = tl.reshape(values.to(tl.float32), [keys, BYTES, dims // BYTES]) * scale[:, :, None]
    return tl.reshape(scaled, [keys, dims]).to(tl.bfloat16)


@triton.jit
def exponent_at(page_ptr, token, TILE: tl.constexpr = TILE, BYTES: tl.constexpr = BYTES):
    """Pointers to the exponents of the ``token``-th tokens of pages [n] with interleaved scales: uint8 [n, BYTES].

    ``page_ptr`` points to the words of scales of each one's page.
    """
    byte = tl.arange(0, BYTES)
    offset = (token // TILE * (TILE * BYTES) + token % TILE)[:, None] + byte[None, :] * TILE
    return page_ptr.to(tl.pointer_type(tl.uint8))[:, None] + offset


@triton.jit
def store_exponents(page_ptr, token, packed, mask, BYTES: tl.constexpr = BYTES):
    """Take the words of exponents ``packed`` [n] apart, and store them where `exponent_at` says."""
    lowest = 8 * tl.arange(0, BYTES)
    exponent = packed[:, None] >> lowest[None, :]
    tl.store(exponent_at(page_ptr, token), exponent.to(tl.uint8), mask=mask[:, None])


@triton.jit
def store_scales(page_ptr, token, scale, mask, INTERLEAVED: tl.constexpr):
    """Store the scales [n] of the ``token``-th tokens of pages: fp32, or words of exponents, which may be interleaved.

    ``page_ptr`` [n] points to the scales of each one's page.
    """
    if INTERLEAVED:
        store_exponents(page_ptr, token, scale, mask)
    else:
        tl.store(page_ptr + token, scale, mask=mask)


@triton.jit
def load_exponents(page_ptr, token, mask, BYTES: tl.constexpr = BYTES):
    """The words, int32 [n], of exponents that `store_exponents` has stored; 0 where ``mask`` is false."""
    exponent = tl.load(exponent_at(page_ptr, token), mask=mask[:, None], other=0).to(tl.int32)
    lowest = 8 * tl.arange(0, BYTES)
    return tl.sum(exponent << lowest[None, :], axis=1)


def is_interleaved(layout: str, scales: str) -> bool:
    """Whether the exponents of keys are interleaved in pages of a layout. Raises ValueError but for MXFP4."""
    interleaved = layout == "shuffle-scales"
    require(not interleaved or scales == "mxfp4", 'layout "shuffle-scales" needs scales "mxfp4", got "{}"', scales)
    return interleaved


def stored_values(scales: str, head_dim: int, fp8: torch.dtype) -> Stored:
    """How the values of keys lie in the cache: two to a byte for "mxfp4", else one, of the dtype ``fp8``."""
    require_choice("scales", scales, SCALES)
    if scales == "mxfp4":
        return Stored(head_dim // 2, torch.uint8, LARGEST)
    return Stored(head_dim, fp8, _LARGEST[fp8])


_LARGEST = {dtype: QUANT_MAX[name] for name, dtype in FP8_DTYPES.items()}


def scale_groups(scales: str, quant_group: int, head_dim: int) -> int:
    """How many groups of dims have exponents of their own: 0 for an fp32 scale, 1 or 4 for UE8M0, 4 for MXFP4.

    Raises ValueError for other scales, and unless quant_group is head_dim or, for UE8M0, a quarter of it; for MXFP4
    always a quarter.
    """
    require_choice("scales", scales, SCALES)
    if scales == "fp32":
        require_quant_group(quant_group, head_dim)
        return 0
    if scales == "mxfp4":
        quarter = head_dim // BYTES
        require(
            quant_group == quarter, "an MXFP4 key has four scales: quant_group must be {}, got {}", quarter, quant_group
        )
        return head_dim // quant_group
    require(
        quant_group in (head_dim, head_dim // BYTES),
        "a key has one UE8M0 scale or four: quant_group must be {} or {}, got {}",
        head_dim,
        head_dim // BYTES,
        quant_group,
    )
    return head_dim // quant_group


def require_powers_of_two(scales: str, scale_fmt: str) -> None:
    """Raise ValueError unless scales of such a form can be stored: UE8M0 holds powers of two alone."""
    require(scales == "fp32" or scale_fmt == "ue8m0", 'UE8M0 scales need scale_fmt "ue8m0", got "{}"', scale_fmt)
