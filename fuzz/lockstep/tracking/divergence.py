"""Programs that disagree about a branch or a trip count, and how a launch goes on with each group of them."""

import numpy as np

from indexfuzz.lockstep.values.arrays import Array


class Divergence(Exception):  # noqa: N818
    """Raised inside a run; `parts` index the programs of that run, and are run again from the start, each alone."""

    def __init__(self, parts: list[Array]) -> None:
        super().__init__(f"{len(parts)} groups of programs take different paths")
        self.parts = parts


def split_by(values: Array) -> list[Array]:
    """Indices of the programs that share a value, one array for each value, in the order of the values."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    cuts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    return [np.sort(part) for part in np.split(order, cuts)]


def portions(programs: int, size: int) -> list[Array]:
    """The programs of a run that is too large to hold at once, so many at a time at most, and about as many each."""
    return np.array_split(np.arange(programs), -(-programs // size))
