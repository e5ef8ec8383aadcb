"""E2M1, the 4-bit numbers of MXFP4: 0, 0.5, 1, 1.5, 2, 3, 4 and 6, with a sign. A byte holds two, its low half first.

All but zeros of either sign are told apart: a negative zero is the number 0. FP8 holds every one of them, so that keys
of two values to a byte are widened to FP8 codes before anything is computed from them.
"""

from functools import lru_cache
from itertools import pairwise
from math import nextafter

import torch
from torch import Tensor

from indexfuzz.reference import fp8 as codec

NAME = "e2m1"
WIDE = "e4m3fn"
"""The format whose codes stand for E2M1 numbers where these are judged."""

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
MIDPOINTS = tuple((low + high) / 2 for low, high in pairwise(MAGNITUDES))
_SIGN = 8


def nearest(x: Tensor) -> Tensor:
    """The E2M1 numbers nearest to x (bf16, fp32, fp64), ties to even, 6 at most and for NaN: codes uint8 of `WIDE`."""
    value = x.double()
    index = torch.bucketize(value.abs(), _thresholds(value.device))
    return widened(index + _SIGN * (value < 0))


@lru_cache(maxsize=16)
def _thresholds(device: torch.device) -> Tensor:
    """What a magnitude must exceed for the next number: the midpoint, which counts itself where that one is even."""
    steps = [nextafter(middle, 0.0) if i % 2 else middle for i, middle in enumerate(MIDPOINTS)]
    return torch.tensor(steps, dtype=torch.float64, device=device)


@lru_cache(maxsize=16)
def _widened(fmt: str, device: torch.device) -> Tensor:
    """FP8 codes of the 16 E2M1 codes, uint8."""
    values = torch.tensor([*MAGNITUDES, 0.0, *(-x for x in MAGNITUDES[1:])], dtype=torch.float64, device=device)
    return codec.encode(values, fmt)


@lru_cache(maxsize=16)
def _narrowed(device: torch.device) -> Tensor:
    """The E2M1 codes of all codes of `WIDE`, to the nearest where they are none of its numbers: uint8 [256]."""
    wide = nearest(codec.decode(torch.arange(256, dtype=torch.uint8, device=device), WIDE))
    return (wide.unsqueeze(1) == _widened(WIDE, device)).int().argmax(1).to(torch.uint8)


def widened(codes: Tensor, fmt: str = WIDE) -> Tensor:
    """FP8 codes uint8 of E2M1 codes, 0 to 15 in an integer dtype."""
    return codec.look_up(_widened(fmt, codes.device), codes)


def unpack(packed: Tensor) -> Tensor:
    """The E2M1 codes uint8 [..., 2 n] of bytes uint8 [..., n]."""
    return torch.stack([packed & 15, packed >> 4], -1).flatten(-2)


def pack(codes: Tensor) -> Tensor:
    """Bytes uint8 [..., n] of E2M1 codes uint8 [..., 2 n]."""
    low, high = codes[..., ::2], codes[..., 1::2]
    return low | (high << 4)


def widen(packed: Tensor, fmt: str = WIDE) -> Tensor:
    """FP8 codes uint8 [..., 2 n] of the numbers in bytes uint8 [..., n]."""
    return widened(unpack(packed), fmt)


def narrow(codes: Tensor) -> Tensor:
    """Bytes uint8 [..., n] of the numbers that codes uint8 [..., 2 n] of `WIDE` stand for."""
    return pack(codec.look_up(_narrowed(codes.device), codes))


def as_fp8_keys(keys: Tensor, fmt: str) -> Tensor:
    """Keys [..., D] in an FP8 format; those in uint8 [..., D / 2] are MXFP4."""
    return codec.as_fp8(widen(keys, fmt), fmt) if keys.dtype == torch.uint8 else keys
