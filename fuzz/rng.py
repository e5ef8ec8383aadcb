"""Counter-based random bits: the same on every device, library version and machine.

Element i of a tensor is SplitMix64 of (key of seed and tensor name) + i, so a value depends on nothing but its own
place: tensors can be made in any order, in part, on any device. Torch's own generators promise none of this.
SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014).
"""

import hashlib

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15
_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB
_WRAP = 1 << 64


def _signed(value: int) -> int:
    """The int64 with the same bits as an unsigned 64-bit value."""
    value %= _WRAP
    return value - _WRAP if value >= _WRAP >> 1 else value


def derive(seed: int, name: str) -> int:
    """A 63-bit key for one purpose under one seed."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift right of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def bits_at(key: int, index: Tensor) -> Tensor:
    """64 random bits for each int64 index, as int64 of the same shape and device."""
    z = (index + 1) * _signed(_GAMMA) + _signed(key)
    z = (z ^ _shift(z, 30)) * _signed(_MIX1)
    z = (z ^ _shift(z, 27)) * _signed(_MIX2)
    return z ^ _shift(z, 31)


def bits(key: int, shape: tuple[int, ...], device: str = "cpu") -> Tensor:
    """64 random bits for each element of a shape, as int64."""
    count = 1
    for size in shape:
        count *= size
    return bits_at(key, torch.arange(count, dtype=torch.int64, device=device)).reshape(shape)


def below(random: Tensor, bound: int) -> Tensor:
    """Map random bits to [0, bound) from their upper 32 bits; the bias is below bound / 2^32."""
    return (_shift(random, 32) * bound) >> 32


def permutation(key: int, n: int) -> Tensor:
    """A permutation of range(n), int64 on the CPU: the order of n random words, ties by index."""
    return torch.argsort(bits(key, (n,)), stable=True)
