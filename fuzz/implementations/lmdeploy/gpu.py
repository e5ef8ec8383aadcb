"""The GPU that LMDeploy's launchers are told of: as large as what is sorted needs.

Programs of the top-k stay, as many as the GPU has room for, and take one piece of a row after the other: on a small GPU
a large launch is thousands of turns of few programs, on a large one no program ever has a second piece. Here a program
has a few. Other launchers are told of the smallest: a row of logits is split over several programs there, and each of
them has several blocks.
"""

from collections.abc import Iterator
from contextlib import contextmanager

TURNS = 4
"""Pieces that a program sorts, where there are enough."""

PROGRAMS = 8
"""Programs of the top-k on each processor."""

LEAST, MOST = 4, 128
"""Processors of a GPU."""


class Gpu:
    """What is known of a GPU."""

    def __init__(self) -> None:
        self._processors = LEAST

    @contextmanager
    def sorting(self, pieces: int) -> Iterator[None]:
        """Be as large as it takes to sort so many pieces, to the end of the block."""
        self._processors = min(max(pieces // (PROGRAMS * TURNS), LEAST), MOST)
        try:
            yield
        finally:
            self._processors = LEAST

    @property
    def properties(self) -> dict[str, int]:
        """As LMDeploy's `get_device_props` names them."""
        return {"multi_processor_count": self._processors, "warps_per_sm": 64, "blocks_per_sm": 32}
