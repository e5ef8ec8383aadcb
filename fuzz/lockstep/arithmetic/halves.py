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

_MANY: Final = 256
"""Elements from which on a call of PyTorch costs less."""


def narrow_to_half(x: F32) -> F16:
    """fp32 to fp16, any shape: nearest even, overflow to infinity; a NaN stays some NaN."""
    if x.size < _MANY:
        return x.astype(np.float16)
    return torch.from_numpy(_writable(x)).to(torch.float16).numpy()


def widen_half(x: F16) -> F32:
    """fp16 to fp32, any shape; a NaN stays some NaN."""
    if x.size < _MANY:
        return x.astype(np.float32)
    return torch.from_numpy(_writable(x)).to(torch.float32).numpy()


def compute_halves(ufunc: Callable[..., Any], a: F16, b: F16) -> F16:
    """A sum, difference, product, quotient or remainder of fp16, rounded once.

    That of fp32 is rounded to 24 bits first, which are more than twice the 11 of fp16, and two more: the second
    rounding gives what one alone gives (Figueroa, "When is double rounding innocuous?", 1995).
    """
    return narrow_to_half(ufunc(widen_half(a), widen_half(b)))


def _writable(x: NDArray[Any]) -> NDArray[Any]:
    """The array, or a copy where PyTorch would complain that it cannot be written to."""
    return x if x.flags.writeable and min(x.strides, default=0) >= 0 else x.copy()
