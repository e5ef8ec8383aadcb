"""A curve over time as the points of an SVG line."""

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 600.0, 120.0
"""Of the drawing, in its own units."""

MOST_POINTS = 300


@dataclass(frozen=True)
class Curve:
    """How many there were at each time: `points` of a polyline, the origin at the bottom left."""

    points: str
    total: int
    seconds: float


def count_over_time(times: Sequence[float], seconds: float) -> Curve:
    """How a count grew that went up by one at each of these times, in order, of a run of so many seconds."""
    total, length = len(times), max(seconds, *times[-1:], 1e-9)
    stride = -(-total // MOST_POINTS) or 1
    steps = [(0.0, 0), *((times[i], i + 1) for i in range(stride - 1, total, stride)), (length, total)]
    points = " ".join(f"{WIDTH * t / length:.1f},{HEIGHT * (1 - n / max(total, 1)):.1f}" for t, n in steps)
    return Curve(points, total, length)
