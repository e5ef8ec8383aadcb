"""Fixed contents for the outputs that third-party launchers allocate themselves."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def poisoned_empty() -> Iterator[None]:
    """Inside the block torch.empty holds NaN, or the largest integer, so an unwritten output is the same every time."""
    settings: Any = torch.utils.deterministic
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filling = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    settings.fill_uninitialized_memory = True
    try:
        yield
    finally:
        settings.fill_uninitialized_memory = filling
        torch.use_deterministic_algorithms(mode=enabled, warn_only=warn_only)
