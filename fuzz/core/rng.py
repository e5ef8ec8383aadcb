"""Counter-based random bits: the same on every device, library version and machine.

Element i of a tensor is SplitMix64 of (key of seed and tensor name) + i, so a value depends on nothing but its own
place: tensors can be made in any order, in part, on any device. Torch's own generators promise none of this.
SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014).
"""

import hashlib
from math import prod

import numpy as np
import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15
_ROUNDS = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
_LAST_SHIFT = np.uint64(31)
_EVEN_LANES = 0x0000FFFF0000FFFF

ALIKE = 1 << 40
"""Cases whose seeds are equal modulo this are asked and launched alike: what that compiles is compiled once for all."""


def derive(seed: int, name: str) -> int:
    """A 63-bit key for one purpose under one seed."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def random_bytes(seed: int, name: str, count: int) -> bytes:
    """So many bytes for one purpose under one seed."""
    return hashlib.shake_256(f"{seed}\0{name}".encode()).digest(count)


def bits_at(key: int, index: Tensor) -> Tensor:
    """64 random bits for each int64 index on the CPU, as int64 of the same shape."""
    z = index.numpy().view(np.uint64) * np.uint64(_GAMMA)
    z += np.uint64((_GAMMA + key) % (1 << 64))
    for shift, factor in _ROUNDS:
        z ^= z >> shift
        z *= factor
    z ^= z >> _LAST_SHIFT
    return torch.from_numpy(z.view(np.int64))


def bits(key: int, shape: tuple[int, ...]) -> Tensor:
    """64 random bits for each element of a shape, as int64."""
    return bits_at(key, torch.arange(prod(shape)).view(shape))


def below(random: Tensor, bound: int) -> Tensor:
    """Map random bits to [0, bound) from their upper 32 bits; the bias is below bound / 2^32."""
    upper = random.numpy().view(np.uint64) >> np.uint64(32)
    upper *= np.uint64(bound)
    upper >>= np.uint64(32)
    return torch.from_numpy(upper.view(np.int64))


def lanes_summed(random: Tensor) -> Tensor:
    """The sum of the four 16-bit lanes of random bits, from 0 to 4 * 65535, as int64."""
    word = random.numpy().view(np.uint64)
    two = word & np.uint64(_EVEN_LANES)
    two += (word >> np.uint64(16)) & np.uint64(_EVEN_LANES)
    four = two & np.uint64(0xFFFFFFFF)
    four += two >> np.uint64(32)
    return torch.from_numpy(four.view(np.int64))


def permutation(key: int, n: int) -> Tensor:
    """A permutation of range(n), int64 on the CPU: the order of n random words, ties by index."""
    return torch.argsort(bits(key, (n,)), stable=True)
