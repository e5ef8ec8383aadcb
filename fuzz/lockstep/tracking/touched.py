"""The bytes of one access, one by one."""

from dataclasses import dataclass

import numpy as np

from indexfuzz.lockstep.tracking.access import Access
from indexfuzz.lockstep.values.arrays import Array, spread


@dataclass(slots=True)
class Touched:
    """Of every byte: the program in the run, the offset in the storage, the lane in the block, and what is stored.

    `value` is None of a load.
    """

    access: Access
    program: Array
    offset: Array
    lane: Array
    value: Array | None


def list_bytes(access: Access, programs: int) -> Touched:
    """The bytes of an access that so many programs make, program by program and lane by lane in row-major order."""
    shape = (programs, *access.pointer.shape)
    wanted = np.ones(shape, np.bool_) if access.everywhere else spread(access.lanes, shape)
    offset = spread(access.pointer.data, shape)[wanted]
    lanes = int(np.prod(shape[1:], dtype=np.int64))
    index = np.flatnonzero(wanted)
    value = None
    if access.values is not None:
        values = access.values if access.everywhere else _listed(access, access.values)
        value = spread(values, shape)[wanted]
        value = np.ascontiguousarray(value).view(np.uint8)
    size = access.size
    offset = (offset[:, None] + np.arange(size)).ravel()
    return Touched(access, np.repeat(index // lanes, size), offset, np.repeat(index % lanes, size), value)


def _listed(access: Access, values: Array) -> Array:
    """Stored values, one for each offset, where their lanes are; zero elsewhere."""
    full = np.zeros(access.lanes.shape, values.dtype)
    full[access.lanes] = values
    return full
