"""Mismatch: what a check reports."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mismatch:
    """One output that is not what it may be. ``detail`` is one line that a kernel engineer understands at once."""

    kind: str
    """A kind of finding, such as "code-mismatch"."""
    output: str
    """The output that is wrong, such as "cache_values"."""
    index: tuple[int, ...]
    """The first wrong element, by the output's own axes."""
    got: str
    want: str
    count: int
    """How many elements are wrong, of ``total``."""
    total: int
    detail: str
    feature: str = ""
    tier: str = ""
    ratio: float = 0.0
    """Largest error as a share of the bound, where there is a bound."""
