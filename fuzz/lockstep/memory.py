"""The tensors that a launch may touch: one allocation per storage, seen as bytes, with what is declared about them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from indexfuzz.lockstep.values import Array, Mask


@dataclass(slots=True)
class Buffer:
    """A logical tensor inside a larger storage: `runs` of bytes at a stride, an outer dimension each.

    dims lists (length, byte stride) from the outermost, run is the length in bytes of the contiguous innermost part.
    initialised, where given, has one flag per byte of [start, end).
    """

    name: str
    start: int
    end: int
    dims: tuple[tuple[int, int], ...]
    run: int
    initialised: Mask | None

    def contains(self, offsets: Array, size: int) -> Mask:
        """Whether accesses of `size` bytes at byte offsets of the storage lie inside, element by element."""
        relative = offsets - self.start
        inside = (relative >= 0) & (offsets + size <= self.end)
        rest = np.where(inside, relative, 0)
        for length, stride in self.dims:
            inside &= rest // stride < length
            rest = rest % stride
        if self.dims:
            inside &= rest + size <= self.run
        return inside


@dataclass(slots=True)
class Allocation:
    """The bytes of one torch storage."""

    data: Array
    address: int
    buffers: list[Buffer] = field(default_factory=list)
    views: dict[np.dtype[Any], Array] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes in the storage."""
        return int(self.data.shape[0])

    def view(self, dtype: np.dtype[Any]) -> Array:
        """The storage as elements of `dtype`, without a tail that is shorter than one."""
        found = self.views.get(dtype)
        if found is None:
            whole = self.size // dtype.itemsize * dtype.itemsize
            found = self.views[dtype] = self.data[:whole].view(dtype)
        return found

    def gather(self, offsets: Array, dtype: np.dtype[Any], *, aligned: bool = False) -> Array:
        """The elements at byte offsets, which must be inside; aligned says that they are multiples of the size."""
        size = dtype.itemsize
        if size == 1:
            return self.view(dtype).take(offsets)
        if aligned or self._aligned(offsets, size):
            return self.view(dtype).take(offsets >> (size.bit_length() - 1))
        pieces = self.data[offsets[..., None] + np.arange(size)]
        return np.ascontiguousarray(pieces).view(dtype)[..., 0]

    def scatter(self, offsets: Array, values: Array, *, aligned: bool = False) -> "Undo":
        """Write elements at byte offsets, which must be inside; of two at one offset the later stays."""
        size = values.dtype.itemsize
        if size == 1 or aligned or self._aligned(offsets, size):
            target = self.view(values.dtype)
            index = offsets if size == 1 else offsets >> (size.bit_length() - 1)
        else:
            target = self.data
            index = offsets[..., None] + np.arange(size)
            values = np.ascontiguousarray(values)[..., None].view(np.uint8)
        undo = Undo(target, index, target.take(index))
        target[index] = values
        return undo

    @staticmethod
    def _aligned(offsets: Array, size: int) -> bool:
        return offsets.size == 0 or not int(np.bitwise_or.reduce(offsets, axis=None)) & (size - 1)


@dataclass(frozen=True, slots=True)
class Undo:
    """What a write replaced."""

    target: Array
    index: Array
    old: Array

    def roll_back(self) -> None:
        """Put it back."""
        self.target[self.index] = self.old


def storage_bytes(tensor: torch.Tensor) -> Array:
    """Every byte of the storage under a CPU tensor, without a copy.

    Raises ValueError for a tensor that is not in CPU memory.
    """
    if tensor.device.type != "cpu":
        raise ValueError(f"lockstep runs on the CPU; got a tensor on {tensor.device}, move it with .cpu()")
    view = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    data: Array = view.numpy()
    return data


def declared(name: str, tensor: torch.Tensor, initialised: bool | torch.Tensor | Array) -> Buffer:  # noqa: FBT001
    """Describe `tensor` as a buffer of its storage.

    initialised: True, False, or one flag per byte of the tensor in its logical order. Bytes that a launch stores
    count as initialised from then on.

    Raises ValueError for a tensor whose elements overlap.
    """
    size = tensor.element_size()
    start = int(tensor.storage_offset()) * size
    dims = sorted(
        ((int(n), int(s) * size) for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n != 1),
        key=lambda d: -d[1],
    )
    run = size
    while dims and dims[-1][1] == run:
        run *= dims.pop()[0]
    end = start if tensor.numel() == 0 else start + run + sum((n - 1) * s for n, s in dims)
    inner = run
    for n, s in reversed(dims):
        if s < inner:
            raise ValueError(f"the elements of {name} overlap: shape {tuple(tensor.shape)}, stride {tensor.stride()}")
        inner = s * n
    flags: Mask | None = None
    if not isinstance(initialised, bool):
        given = np.asarray(initialised, dtype=np.bool_).reshape(*tensor.shape, size)
        flags = np.zeros(end - start, np.bool_)
        strides = tuple(s * size for s in tensor.stride())
        np.lib.stride_tricks.as_strided(flags, given.shape, (*strides, 1))[...] = given
    elif not initialised:
        flags = np.zeros(end - start, np.bool_)
    return Buffer(name, start, end, tuple(dims), run, flags)
