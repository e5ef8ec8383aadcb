"""Arrays over programs and lanes, what is done with masks of them, and how a write to one is taken back."""

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Mask = NDArray[np.bool_]

_LARGE: Final = 1 << 14
"""Elements from which on a range is worth looking for, and that are looked at together, to stay in the cache."""

_BRANCHES: Final = 1 << 13
"""Elements from which on one that branches costs more than a few operations on all."""

_WORDS: Final[dict[int, np.dtype[Any]]] = {n: np.dtype(f"i{n}") for n in (1, 2, 4, 8)}

_SMALL: Final = 1 << 12
"""Elements up to which a copy takes less than finding out whether one is needed."""


@dataclass(frozen=True, slots=True)
class Undo:
    """What a write replaced."""

    target: Array
    index: Array | slice
    old: Array

    def roll_back(self) -> None:
        """Put it back."""
        self.target[self.index] = self.old


def as_slice(index: Array) -> slice | None:
    """The range that a large index lists number by number; None for any other, and for a small one."""
    if index.size < _LARGE:
        return None
    flat = index.ravel()
    first, last = int(flat[0]), int(flat[-1])
    if last - first != flat.size - 1:
        return None
    steps = (np.diff(flat[start : start + _LARGE + 1]) for start in range(0, flat.size - 1, _LARGE))
    return slice(first, last + 1) if all((step == 1).all() for step in steps) else None


def select(data: Array, lanes: Mask) -> Array:
    """The elements of data where a mask of its shape holds, in order; whole rows or columns at once where it allows."""
    if lanes.size <= _SMALL:
        chosen: Array = data[lanes]
        return chosen
    columns = _columns(lanes)
    if columns is not None:
        flat = data.reshape(data.shape[0], -1)
        return (flat[:, columns] if isinstance(columns, slice) else flat.take(columns, axis=1)).ravel()
    rows = _rows(lanes)
    return data.ravel() if rows is None else data[rows].ravel()


def place(data: Array, lanes: Mask, values: Array) -> None:
    """Set the elements of data where a mask of its shape holds."""
    if lanes.size <= _SMALL:
        data[lanes] = values
        return
    columns = _columns(lanes) if data.flags.c_contiguous else None
    if columns is not None:
        data.reshape(data.shape[0], -1)[:, columns] = values.reshape(data.shape[0], -1)
        return
    rows = _rows(lanes)
    if rows is None:
        data[...] = values.reshape(data.shape)
    else:
        data[rows] = values.reshape(-1, *data.shape[rows.ndim :])


def _columns(lanes: Mask) -> Array | slice | None:
    """The lanes of a mask that is the same in all programs, as a range where they are one; None for other masks."""
    if lanes.ndim < 2 or lanes.strides[0] or lanes.shape[0] == 1:
        return None
    index = np.flatnonzero(lanes[0])
    if index.size and int(index[-1]) - int(index[0]) == index.size - 1:
        return slice(int(index[0]), int(index[-1]) + 1)
    return index


def count_by_program(lanes: Mask) -> Array:
    """How many lanes of each program a mask holds."""
    rows = _rows(lanes)
    if rows is None:
        return np.full(lanes.shape[0], lanes[0].size)
    inner = lanes[0].size // max(rows[0].size, 1)
    counts: Array = np.count_nonzero(rows.reshape(rows.shape[0], -1), axis=1) * inner
    return counts


def _rows(lanes: Mask) -> Mask | None:
    """The mask without the last axes along which it is only repeated; None where that leaves one True."""
    axes = lanes.ndim
    while axes and (lanes.strides[axes - 1] == 0 or lanes.shape[axes - 1] == 1):
        axes -= 1
    rows: Mask = lanes[(slice(None),) * axes + (0,) * (lanes.ndim - axes)]
    return rows if axes or not rows else None


def either(a: Mask | None, b: Mask | None) -> Mask | None:
    """The lanes marked in one of two masks."""
    if a is None:
        return b
    return a if b is None else a | b


def spread(data: Array, shape: tuple[int, ...]) -> Array:
    """The data at a shape that it broadcasts to, not to be written to: a view, or a copy of few elements."""
    if data.shape == shape:
        return data
    if prod(shape) > _SMALL:
        return np.broadcast_to(data, shape)
    copy = np.empty(shape, data.dtype)
    copy[...] = data
    return copy


@lru_cache(maxsize=1 << 12)
def joint_shape(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that two shapes broadcast to together."""
    return np.broadcast_shapes(first, second)


def pick(condition: Mask, a: Array, b: Array) -> Array:
    """`np.where` of two arrays of one dtype; of many elements by their bits, as a processor guesses branches wrong."""
    if condition.size < _BRANCHES:
        return np.where(condition, a, b)
    word = _WORDS[a.itemsize]
    ones = np.negative(condition.view(np.int8), dtype=word)
    other = b.view(word)
    picked = (a.view(word) ^ other) & ones
    picked ^= other
    result: Array = picked.view(a.dtype)
    return result


def choose(condition: Mask, a: Array | None, b: Array | None) -> Array | None:
    """Marks of `a` where the condition holds, else of `b`; None stands for no mark."""
    if a is None and b is None:
        return None
    return np.where(condition, False if a is None else a, False if b is None else b)
