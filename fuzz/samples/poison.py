"""What memory holds that nobody has written: NaN in every format involved, so that a read shows in the results."""

import torch
from torch import Tensor

POISON = {
    torch.float8_e4m3fn: 0x7F,
    torch.float8_e4m3fnuz: 0x80,
    torch.uint8: 0x7F,
    torch.int32: 0x7F,
    torch.int64: 0x7F,
}
"""The byte that fills memory of a dtype before anything is written: NaN, and of integers a number too large to be an
index, where -1 would be the right answer to some questions. Other dtypes take POISON_BYTE in each byte."""

POISON_BYTE = 0xFF
"""0xFFFF is a NaN in bf16 and 0xFFFFFFFF in fp32."""


def poison_byte(dtype: torch.dtype) -> int:
    """The byte that unwritten memory of a dtype holds."""
    return POISON.get(dtype, POISON_BYTE)


def poison_like(tensor: Tensor) -> Tensor:
    """What memory of a tensor's form holds before anything is written, dense."""
    raw = torch.full((tensor.numel() * tensor.element_size(),), poison_byte(tensor.dtype), dtype=torch.uint8)
    return raw.to(tensor.device).view(tensor.dtype).view(tensor.shape)
