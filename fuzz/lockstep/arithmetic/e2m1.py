"""E2M1, the 4-bit numbers of MXFP4: encoding from fp32 as `cvt.rn.satfinite.e2m1x2.f32` does it."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_MIDPOINTS: Final = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
_IS_UP: Final = np.arange(7) % 2 == 1
"""Midpoints from which the even one of two codes is the larger."""

_LIMITS: Final = np.where(_IS_UP, np.nextafter(_MIDPOINTS, 0.0), _MIDPOINTS)


def encode_e2m1(x: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Codes 0 to 15 of fp32 values of any shape: to the nearest, ties to even, saturating; a NaN becomes 6, code 7."""
    code = np.searchsorted(_LIMITS, np.abs(x).astype(np.float64)).astype(np.uint8)
    return code | (np.signbit(x) & ~np.isnan(x)).astype(np.uint8) << np.uint8(3)
