"""A rotary embedding layer for callers under test, in the three ways that layers hand back their result."""

from dataclasses import dataclass

from torch import Tensor

from indexfuzz.kernels.rope import rotate, rotate_, rotate_compiled


@dataclass(frozen=True)
class RopeLayer:
    """Stands for the layer that a caller is given; the caller is under test, the layer is not.

    mode "inplace" changes the tensors it is called with, as custom kernels do, and returns them; "functional" and
    "compiled" (PyTorch under torch.compile) return new ones. cos_sin_cache is [max_pos, R], style "neox" or
    "interleaved".
    """

    cos_sin_cache: Tensor
    style: str
    mode: str

    @property
    def is_neox_style(self) -> bool:
        """The style, as callers ask for it."""
        return self.style == "neox"

    def enabled(self) -> bool:
        """Whether a custom, in-place kernel is in use (vLLM's CustomOp.enabled)."""
        return self.mode == "inplace"

    def __call__(self, positions: Tensor, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Rotate all dims of query [T,H,R] and key [T,1,R] bf16."""
        if self.mode == "inplace":
            rotate_(query, positions, self.cos_sin_cache, self.style)
            rotate_(key, positions, self.cos_sin_cache, self.style)
            return query, key
        rotation = rotate_compiled if self.mode == "compiled" else rotate
        return (
            rotation(query, positions, self.cos_sin_cache, self.style),
            rotation(key, positions, self.cos_sin_cache, self.style),
        )
