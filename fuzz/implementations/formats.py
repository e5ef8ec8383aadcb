"""The FP8 formats under the names that cases give them."""

import torch
from torch import Tensor

FP8_DTYPES = {"e4m3fn": torch.float8_e4m3fn, "e4m3fnuz": torch.float8_e4m3fnuz}


def format_of(tensor: Tensor) -> str:
    """Return the name of an FP8 tensor's format."""
    return next(name for name, dtype in FP8_DTYPES.items() if dtype == tensor.dtype)
