"""The form of an output: shape and dtype, before any value is looked at."""

import torch
from torch import Tensor

from indexfuzz.core.finding import Finding, complaint


def check_shape(output: str, got: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Finding | None:
    """Complain unless ``got`` has this shape and dtype."""
    if tuple(got.shape) == shape and got.dtype == dtype:
        return None
    seen, must = f"{got.dtype} {tuple(got.shape)}", f"{dtype} {shape}"
    return complaint("shape", output, f"{output} is {seen}, must be {must}", got=seen, want=must)
