"""The form of an output: shape and dtype, before any value is looked at."""

import torch
from torch import Tensor

from indexfuzz.checks.mismatch import Mismatch


def form(output: str, got: Tensor, *, shape: tuple[int, ...], dtype: torch.dtype) -> Mismatch | None:
    """``got`` must have this shape and dtype."""
    if tuple(got.shape) == shape and got.dtype == dtype:
        return None
    seen, must = f"{got.dtype} {tuple(got.shape)}", f"{dtype} {shape}"
    return Mismatch("shape", output, (), seen, must, 1, 1, f"{output} is {seen}, must be {must}")
