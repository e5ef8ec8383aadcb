"""The tensors that a launcher makes: what it allocates holds known garbage, and its views are remembered.

Nothing must hang on what memory held before. A view of any shape, strides and offset is bounded by nothing but its
storage: where one is wrong, the line to mend is the one that made it, whichever kernels go astray through it.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from indexfuzz.samples.poison import poison_byte

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
VIEWERS = frozenset({torch.as_strided, torch.Tensor.as_strided})


class WatchedTensors(TorchFunctionMode):
    """A context that fills every tensor which Python code allocates in it, by torch.empty or its kin, with a byte.

    `byte` gives it for a dtype; without, nothing is filled. `views` are the file:line of every call of as_strided in
    it, by the address of the first byte of what it gave.
    """

    def __init__(self, byte: Callable[[torch.dtype], int] | None = poison_byte) -> None:
        super().__init__()
        self._byte = byte
        self.views: dict[int, str] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in ALLOCATORS:
            if result.numel() and self._byte:
                self._fill(result, self._byte(result.dtype))
        elif func in VIEWERS:
            caller = sys._getframe(1)  # noqa: SLF001 - a traceback costs more
            self.views[result.data_ptr()] = f"{caller.f_code.co_filename}:{caller.f_lineno}"
        return result

    def _fill(self, tensor: torch.Tensor, byte: int) -> None:
        span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        flat = tensor.as_strided((span,), (1,))
        flat.view(torch.uint8).fill_(byte if tensor.dtype != torch.bool else 1)
