"""Run code that names a device for its own tensors where the tensors under test are."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Elsewhere(TorchFunctionMode):
    """Inside the block, tensors asked for on "cuda" are made on `device`."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function of PyTorch, its device replaced."""
        options = dict(kwargs or {})
        if options.get("device") == "cuda":
            options["device"] = self._device
        return func(*args, **options)
