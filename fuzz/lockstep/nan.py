"""The fp32 NaN of NVIDIA hardware, and how to get the same one on every CPU."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

NAN_BITS: Final = np.uint32(0x7FFFFFFF)
"""The fp32 NaN that NVIDIA hardware produces."""


def canonical_nan(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Replace every NaN by 0x7fffffff; the sign of a NaN that a CPU generates depends on the machine."""
    nan = np.isnan(x)
    if not nan.any():
        return x
    return np.where(nan, NAN_BITS.view(np.float32), x)
