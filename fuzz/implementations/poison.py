"""Fixed contents for the outputs that third-party launchers allocate themselves."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def poisoned_empty() -> Iterator[None]:
    """Inside the block torch.empty holds NaN, or the largest integer, so an unwritten output is the same every time."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = filling
        torch.use_deterministic_algorithms(mode=enabled, warn_only=warn_only)
