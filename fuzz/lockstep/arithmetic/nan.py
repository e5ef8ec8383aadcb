"""The NaNs of NVIDIA hardware, and how to get the same ones on every CPU."""

from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

NAN_BITS: Final = np.uint32(0x7FFFFFFF)
"""The fp32 NaN that NVIDIA hardware produces."""

_NAN16_BITS: Final = np.uint16(0x7FFF)

Float = TypeVar("Float", np.float32, np.float16)


def canonical_nan(x: NDArray[Float]) -> NDArray[Float]:
    """`x` itself, in which every NaN is now 0x7fffffff, in fp16 0x7fff.

    The sign of a NaN that a CPU generates depends on the machine, and which operand's NaN it passes on, too. Costs less
    than the addition that made `x`.
    """
    nan = np.isnan(x)
    if np.count_nonzero(nan):
        np.copyto(x, (NAN_BITS if x.dtype == np.float32 else _NAN16_BITS).view(x.dtype), where=nan)
    return x
