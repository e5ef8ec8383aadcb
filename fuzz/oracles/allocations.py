"""What a launcher allocates without content holds known garbage, so that nothing hangs on what memory held before."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from indexfuzz.samples.buffers import poison_byte

ALLOCATORS = frozenset(
    {
        torch.empty,
        torch.empty_like,
        torch.empty_permuted,
        torch.empty_strided,
        torch.Tensor.new_empty,
        torch.Tensor.new_empty_strided,
    }
)


class FilledAllocations(TorchFunctionMode):
    """A context that fills every tensor which Python code allocates in it, by torch.empty or its kin, with a byte.

    `byte` gives it for a dtype.
    """

    def __init__(self, byte: Callable[[torch.dtype], int] = poison_byte) -> None:
        super().__init__()
        self._byte = byte

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in ALLOCATORS and result.numel():
            span = 1 + sum((size - 1) * stride for size, stride in zip(result.shape, result.stride(), strict=True))
            flat = result.as_strided((span,), (1,))
            flat.view(torch.uint8).fill_(self._byte(result.dtype) if result.dtype != torch.bool else 1)
        return result
