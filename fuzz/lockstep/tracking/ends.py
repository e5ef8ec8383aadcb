"""How the conditions of kernels end, comparisons, branches and loops, and how far the operands are from another end.

A condition over a block ends in as many ways as it has lanes. What is kept of one is whether it ever held and whether
it ever did not, each with the operands that were closest to each other.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from indexfuzz.lockstep.triton_api.types import Constexpr, Tensor
from indexfuzz.lockstep.values.arrays import Array, Mask
from indexfuzz.lockstep.values.dtypes import I1

Operand = int | str | None
Operands = tuple[Operand, Operand]
UNKNOWN: Final = (None, None)


class Place(NamedTuple):
    """File, line and text of a condition."""

    file: str
    line: int
    text: str


class End(NamedTuple):
    """One way in which a condition ended, with the operands that were closest, where these are known."""

    place: Place
    holds: bool
    left: Operand
    right: Operand


class Ends:
    """What was seen of each condition, in the order in which they came up."""

    def __init__(self) -> None:
        self._seen: dict[Place, dict[bool, Operands]] = {}
        self.complete: set[Place] = set()
        """Conditions that have ended both ways, of which there is nothing more to see."""

    def __iter__(self) -> Iterator[End]:
        """One of each end of each condition."""
        for place, ends in self._seen.items():
            for holds, operands in ends.items():
                yield End(place, holds, *operands)

    def note_comparison(self, place: Place, result: Any, left: Any, right: Any) -> None:
        """Take a comparison of integers, or of anything that is known while compiling; those of floats are left out."""
        if not isinstance(result, Tensor):
            self._keep(place, bool(_known(result)), (_plain(left), _plain(right)))
        elif result.handle.undefined is None and (a := _lanes(left)) is not None and (b := _lanes(right)) is not None:
            self.note_lanes(place, result.handle.data, a, b)

    def note_truth(self, place: Place, test: Any) -> None:
        """Take a condition that compares nothing."""
        if not isinstance(test, Tensor):
            self._keep(place, bool(_known(test)), UNKNOWN)
        elif test.handle.undefined is None:
            self._keep_lanes(place, test.handle.data != 0, None)

    def note_lanes(self, place: Place, holds: Mask, left: Array, right: Array) -> None:
        """Take a comparison of lanes that are there; the programs are the first axis of either operand."""
        self._keep_lanes(place, holds, (left, right))

    def _keep_lanes(self, place: Place, holds: Mask, operands: tuple[Array, Array] | None) -> None:
        if not holds.size:
            return
        every, some = bool(holds.all()), bool(holds.any())
        closest = UNKNOWN if operands is None or every is not some else _closest(*operands)
        for end in dict.fromkeys((every, some)):
            self._keep(place, end, closest)

    def _keep(self, place: Place, holds: bool, operands: Operands) -> None:  # noqa: FBT001
        ends = self._seen.setdefault(place, {})
        if holds not in ends or _gap(operands) < _gap(ends[holds]):
            ends[holds] = operands
        if len(ends) > 1:
            self.complete.add(place)


def _gap(operands: Operands) -> float:
    left, right = operands
    return abs(left - right) if isinstance(left, int) and isinstance(right, int) else float("inf")


def _known(value: Any) -> Any:
    return value.value if isinstance(value, Constexpr) else value


def _plain(value: Any) -> Operand:
    known = _known(value)
    return known if type(known) in (int, str) else None


def _lanes(value: Any) -> Array | None:
    """The integers that a value holds, programs first; None where it holds none."""
    if isinstance(value, Tensor):
        handle = value.handle
        return handle.data if handle.ty.kind == "int" and handle.ty is not I1 else None
    number = _plain(value)
    return np.full(1, number) if isinstance(number, int) and abs(number) < 1 << 63 else None


def _closest(left: Array, right: Array) -> tuple[int, int]:
    """The operands of the lane where they are closest, the first one where there are several."""
    left, right = _align(left, right.ndim), _align(right, left.ndim)
    if left.size == right.size == 1:
        return int(left.flat[0]), int(right.flat[0])
    gaps = np.abs(np.subtract(left, right, dtype=np.int64))
    place = np.unravel_index(int(gaps.argmin()), gaps.shape)
    return int(np.broadcast_to(left, gaps.shape)[place]), int(np.broadcast_to(right, gaps.shape)[place])


def _align(data: Array, axes: int) -> Array:
    """The data with at least so many axes, the new ones behind the programs."""
    missing = max(axes - data.ndim, 0)
    return data.reshape(data.shape[0], *(1,) * missing, *data.shape[1:]) if missing else data
