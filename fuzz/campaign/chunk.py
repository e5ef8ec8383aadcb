"""A part of the stream of cases. Nothing but its number, the seed and the shard determines what is in it."""

from dataclasses import dataclass

CHUNK = 50
"""Shapes that are drawn together: enough for Hypothesis to vary them, few enough to draw without a pause."""


@dataclass(frozen=True)
class Chunk:
    """Run the cases of a chunk, but for the first `start`."""

    number: int
    start: int = 0
