"""Memory that counts only where it is written, however much of it there is."""

import mmap
from typing import Final

_NORESERVE: Final = getattr(mmap, "MAP_NORESERVE", 0x4000)
"""Linux's flag for memory that is not counted before it is written."""


def unreserved(size: int) -> mmap.mmap:
    """So many zero bytes, one at least."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
