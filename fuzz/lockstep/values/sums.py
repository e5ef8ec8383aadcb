"""Integers that are sums of smaller arrays, such as one of rows and one of columns, as the offsets of most blocks are.

A sum is listed lane by lane only where somebody asks for it: a block whose rows lie in memory one by one is loaded by
the places of its rows. Sums are of 64-bit integers, so that they are right modulo 2^64 in any order.
"""

from collections.abc import Sequence
from functools import reduce
from math import prod
from typing import Final

import numpy as np
from numpy.typing import DTypeLike

from indexfuzz.lockstep.values.arrays import Array, Mask

Terms = tuple[Array, ...]

WORTH: Final = 1 << 16
"""Lanes from which on a sum is worth keeping as it is."""

_SHORT: Final = 1 << 12
"""Lanes up to which the step from each to the next is looked for."""


def may_grow(first: Array, second: Array) -> bool:
    """Whether two arrays may broadcast to more lanes than either has, and to many: a cheap look before a closer one."""
    return first.size * second.size >= WORTH and first.shape != second.shape and min(first.size, second.size) > 1


def shape_of(terms: Terms) -> tuple[int, ...]:
    """The shape of the sum."""
    return np.broadcast_shapes(*[term.shape for term in terms])


def add_terms(first: Sequence[Array], second: Sequence[Array], factor: int = 1) -> Terms | None:
    """What first + factor * second is the sum of; None where that is an array as large as the sum, or not worth it."""
    found = list(first)
    for term in second:
        moved = term * factor if factor != 1 else term
        for place, other in enumerate(found):
            if np.broadcast_shapes(other.shape, moved.shape) in (other.shape, moved.shape):
                found[place] = other + moved
                break
        else:
            found.append(moved)
    terms = tuple(found)
    size = prod(shape_of(terms))
    return None if size < WORTH or any(term.size == size for term in terms) else terms


def list_sum(terms: Terms, dtype: DTypeLike) -> Array:
    """The sum, lane by lane."""
    return reduce(np.add, [term.astype(dtype, copy=False) for term in terms])


def select_sum(terms: Terms, lanes: Mask) -> Array:
    """The sum where a mask of lanes that is the same in all programs holds, in order."""
    index = lanes[0]
    parts = [np.broadcast_to(term, (term.shape[0], *index.shape))[:, index] for term in terms]
    total = reduce(np.add, parts)
    return np.broadcast_to(total, (lanes.shape[0], total.shape[1])).ravel()


def column_of(terms: Terms, column: int) -> Array:
    """The sum at one place of the last axis, which is gone."""
    return reduce(np.add, [term[..., column if term.shape[-1] > 1 else 0] for term in terms])


def step_of(terms: Terms) -> int | None:
    """What each lane has more than the one before it along the last axis; None where that differs."""
    varying = [term for term in terms if term.shape[-1] > 1]
    if len(varying) != 1 or varying[0].size > _SHORT:
        return None
    steps = np.diff(varying[0].astype(np.int64, copy=False))
    first = steps.flat[0]
    return int(first) if (steps == first).all() else None
