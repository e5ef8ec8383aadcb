"""What stands in the cache for the scale of a key: an fp32, or four UE8M0 exponents that are packed to an int32.

A UE8M0 byte e stands for 2**(e - 127), 255 for NaN. Byte j, lowest first, belongs to the j-th quarter of a key's dims;
a key that has one scale has it in all four. A key in MXFP4 has four, and its values are E2M1, two to a byte.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from indexfuzz.reference import fp8 as codec
from indexfuzz.reference import nibbles

QUARTERS = 4
_NAN, _BIAS = 255, 127


def dtype_of(scales: str) -> torch.dtype:
    """What the scale of a key is in the cache, by the name of the form: fp32 or int32."""
    return torch.float32 if scales == "fp32" else torch.int32


class ScaleFormat(NamedTuple):
    """How keys are stored: "fp32", "ue8m0" or "mxfp4", and how many groups of dims have scales of their own."""

    name: str
    groups: int

    @classmethod
    def of(cls, name: str, quant_group: int, head_dim: int) -> "ScaleFormat":
        """The format by the options of a call.

        Raises ValueError unless quant_group is head_dim or, for "ue8m0", a quarter of it, which "mxfp4" always has.
        """
        if name not in ("fp32", "ue8m0", "mxfp4"):
            raise ValueError(f'scales must be "fp32", "ue8m0" or "mxfp4", got "{name}"')
        if quant_group * QUARTERS == head_dim and name != "fp32":
            return cls(name, QUARTERS)
        if name == "mxfp4":
            raise ValueError(f"four scales per token: quant_group must be {head_dim // QUARTERS}, got {quant_group}")
        if quant_group != head_dim:
            raise ValueError(f"one scale per token: quant_group must equal head_dim {head_dim}, got {quant_group}")
        return cls(name, 1)

    @property
    def dtype(self) -> torch.dtype:
        """What a key's scale is in the cache."""
        return dtype_of(self.name)

    @property
    def per_byte(self) -> int:
        """How many values of a key a byte holds."""
        return 2 if self.name == "mxfp4" else 1

    def quantised(self, fp8: str) -> str:
        """The format of a key's values, where q has an FP8 format."""
        return nibbles.NAME if self.name == "mxfp4" else fp8

    def read(self, stored: Tensor) -> Tensor:
        """FP8 codes uint8 [n, D] of the bytes of values that the cache has."""
        return nibbles.widen(stored) if self.name == "mxfp4" else stored

    def write(self, codes: Tensor) -> Tensor:
        """The bytes of values [n, D / per_byte] that the cache has for FP8 codes uint8 [n, D]."""
        return nibbles.narrow(codes) if self.name == "mxfp4" else codec.codes(codes)

    def grouped(self, x: Tensor) -> Tensor:
        """Rows [n, D] as their groups [n * groups, D / groups], one behind the other."""
        return x.reshape(len(x) * self.groups, x.shape[-1] // self.groups)

    def store(self, scales: Tensor) -> Tensor:
        """Scales of groups [n * groups] fp32 as the cache has them, [n]."""
        return scales if self.name == "fp32" else pack(scales.view(-1, self.groups))

    def load(self, stored: Tensor) -> Tensor:
        """Scales of groups [n * groups] fp32 of what the cache has [n]; NaN where four bytes that must agree do not."""
        if self.name == "fp32":
            return stored.view(torch.float32)
        scales = unpack(stored.view(torch.int32))
        if self.groups == 1:
            return torch.where((scales == scales[:, :1]).all(1), scales[:, 0], float("nan"))
        return scales.flatten()


FP32 = ScaleFormat("fp32", 1)


def pack(scales: Tensor) -> Tensor:
    """Powers of two fp32 [..., 1 or 4] as words int32 [...]; what is no number becomes NaN."""
    exponents = torch.frexp(scales.double()).exponent.long() - 1 + _BIAS
    exponents = torch.where(torch.isfinite(scales), exponents.clamp(0, _NAN - 1), _NAN)
    every = exponents.repeat_interleave(QUARTERS // scales.shape[-1], -1)
    return every.to(torch.uint8).contiguous().view(torch.int32).squeeze(-1)


def unpack(words: Tensor) -> Tensor:
    """Words int32 [...] as scales fp32 [..., 4]."""
    exponents = words.contiguous().view(torch.uint8).view(*words.shape, QUARTERS).int()
    scales = torch.ldexp(torch.ones_like(exponents, dtype=torch.float64), exponents - _BIAS).float()
    return torch.where(exponents == _NAN, float("nan"), scales)


def by_dim(words: Tensor, head_dim: int) -> Tensor:
    """The scale of every dim of keys by their words int32 [...]: fp64 [..., D]."""
    return unpack(words).double().repeat_interleave(head_dim // QUARTERS, -1)


def values_of(k_scale: Tensor) -> Tensor:
    """What scales [...] of keys stand for, fp32: [..., 1], or [..., 4] of words."""
    return unpack(k_scale) if k_scale.dtype == torch.int32 else k_scale.unsqueeze(-1)


def finite(k_scale: Tensor) -> Tensor:
    """Scales of keys [...] with 1 for everything that is no number, as they were stored; strides as they were."""
    out = torch.empty_strided(k_scale.shape, k_scale.stride(), dtype=k_scale.dtype, device=k_scale.device)
    if k_scale.dtype != torch.int32:
        return out.copy_(torch.where(torch.isfinite(k_scale), k_scale, 1.0))
    return out.copy_(pack(torch.nan_to_num(unpack(k_scale), nan=1.0)))
