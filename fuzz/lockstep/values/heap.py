"""The process's heap: a launch frees what the next one needs again."""

import ctypes
import os
from functools import cache
from typing import Final

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
"""Parameters of glibc's mallopt, from malloc.h."""

_KEPT: Final = 1 << 28
"""Bytes that stay with the process at most."""

_LARGEST: Final = 1 << 25
"""Bytes of the largest array that comes from the heap: the most that every glibc takes."""


@cache
def keep_freed_memory() -> None:
    """Let glibc keep what arrays free, once per process; with another C library or one that is told otherwise, nothing.

    By default the blocks of each launch go back to the kernel and come again page by page, which takes longer than to
    compute what is in them.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None and not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _KEPT)
