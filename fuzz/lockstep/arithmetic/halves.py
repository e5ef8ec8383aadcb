"""fp16 values in numpy arrays, converted by PyTorch where there are many.

numpy converts them one by one in software, and takes 60 ns for each that is subnormal; PyTorch uses the processor's own
instructions. Both round to nearest even; only the bits of NaNs may differ.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

F16 = NDArray[np.float16]
F32 = NDArray[np.float32]

_MANY: Final = 2048
"""Elements from which on a call of PyTorch costs less."""

_PIECE: Final = 1 << 15
"""Elements that PyTorch converts at a time: for more it would wake threads, which a fork does not take along."""


def narrow_to_half(x: F32) -> F16:
    """fp32 to fp16, any shape: nearest even, overflow to infinity; a NaN stays some NaN."""
    return _convert(x, np.dtype(np.float16))


def widen_half(x: F16) -> F32:
    """fp16 to fp32, any shape; a NaN stays some NaN."""
    return _convert(x, np.dtype(np.float32))


def compute_halves(ufunc: Callable[..., Any], a: F16, b: F16) -> F16:
    """A sum, difference, product, quotient or remainder of fp16, rounded once.

    That of fp32 is rounded to 24 bits first, which are more than twice the 11 of fp16, and two more: the second
    rounding gives what one alone gives (Figueroa, "When is double rounding innocuous?", 1995).
    """
    return narrow_to_half(ufunc(widen_half(a), widen_half(b)))


def _convert(x: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    if x.size < _MANY:
        return x.astype(kind)
    flat = np.ascontiguousarray(x).reshape(-1)
    if not flat.flags.writeable:  # of which PyTorch would warn
        flat = flat.copy()
    made = np.empty(flat.shape, kind)
    source, target = torch.from_numpy(flat), torch.from_numpy(made)
    for start in range(0, flat.size, _PIECE):
        target[start : start + _PIECE].copy_(source[start : start + _PIECE])
    return made.reshape(x.shape)
