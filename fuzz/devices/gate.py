"""A gate before the streams of an NVIDIA GPU: what waits behind it begins once the host has launched all there is."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import triton
import triton.language as tl

MOST_LOOKS = 1 << 18
"""Looks at a gate, about a microsecond each, until it counts as open: a launcher may wait for the GPU itself."""


@triton.jit
def wait_at_gate(gate, most_looks):  # type: ignore[no-untyped-def]
    """Keep a stream busy until the host has written to `gate`, or so many looks at it have been in vain."""
    looks = 0
    while (tl.load(gate, volatile=True) == 0) & (looks < most_looks):
        looks += 1


class Gate:
    """One word of the host's memory that a kernel looks at. However slow the host is, nothing passes before it is open.

    It is made when a process needs it first: memory that a GPU can read takes a driver.
    """

    def __init__(self) -> None:
        self._word = torch.zeros(1, dtype=torch.int32, pin_memory=True)

    @contextmanager
    def closed(self) -> Iterator[torch.cuda.Event]:
        """Inside, streams can wait for the event, which comes at the end of the block."""
        self._word.zero_()
        wait_at_gate[(1,)](self._word, MOST_LOOKS, num_warps=1)
        try:
            yield torch.cuda.current_stream().record_event()
        finally:
            self._word.fill_(1)
