"""Logical tensors inside a storage that is larger than they are, and which of their bytes hold something."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import numpy as np
import torch

from indexfuzz.lockstep.values.arrays import Array, Mask
from indexfuzz.lockstep.values.unreserved import unreserved

_MOST_ZEROS: Final = 1 << 30
"""Flags up to which they are counted as memory, whether they are written or not."""

_EVERY: Final = {size: np.ones(size, np.bool_).view(f"u{size}")[0] for size in (1, 2, 4, 8)}
"""The flags of an element that is initialised as one integer, by its size."""

_MOST_MARKS: Final = 64
"""Marks that wait at most: they keep their indices in memory."""


@dataclass(slots=True)
class Mark:
    """Flags to be set once somebody asks; `old` is what they were, None before that."""

    flags: Array
    index: Array
    value: np.generic
    old: Array | None = None
    is_wanted: bool = True

    def set(self) -> None:
        """Set the flags."""
        if self.is_wanted:
            self.old = self.flags.take(self.index)
            self.flags[self.index] = self.value

    def roll_back(self) -> None:
        """Put back what they were, or never set them."""
        self.is_wanted = False
        if self.old is not None:
            self.flags[self.index] = self.old


@dataclass(slots=True)
class Buffer:
    """A logical tensor inside a larger storage: `runs` of bytes at a stride, an outer dimension each.

    dims lists (length, byte stride) from the outermost, run is the length in bytes of the contiguous innermost part.
    initialised, where given, has one flag per byte of [start, end); what `marks` say is not in there yet.
    """

    name: str
    start: int
    end: int
    dims: tuple[tuple[int, int], ...]
    run: int
    initialised: Mask | None
    marks: list[Mark] = field(default_factory=list)

    def contains(self, offsets: Array, size: int) -> Mask:
        """Whether accesses of `size` bytes at byte offsets of the storage lie inside, element by element."""
        relative = offsets - self.start
        # An offset before the start is a huge number where it has no sign.
        inside: Mask = relative.view(np.uint64) <= np.uint64(max(self.end - self.start - size, 0))
        if self.end - self.start < size:
            inside &= False
        if not self.dims:
            return inside
        rest = relative if inside.all() else np.where(inside, relative, 0)
        for length, stride in self.dims:
            place = rest // stride
            inside &= place < length
            rest = rest - place * stride
        inside &= rest <= self.run - size
        return inside

    def spans(self, low: int | None, high: int | None) -> bool:
        """Whether all bytes in [low, high) are the buffer's; false where a bound is not known."""
        return low is not None and high is not None and self.start <= low and high <= self.end

    def find_unwritten(self, offsets: Array, size: int, *, aligned: bool, inside: bool) -> Mask | None:
        """The elements of `size` bytes at byte offsets with a byte that nobody wrote; None where there is none.

        aligned says that the size divides every offset, inside that every element lies in the buffer.
        """
        flags = self.initialised
        if flags is None:
            return None
        self._set_marks()
        relative = offsets - self.start if self.start else offsets
        within = None if inside else (relative >= 0) & (relative <= flags.shape[0] - size)
        index = relative if within is None else np.where(within, relative, 0)
        bad: Mask
        if aligned and not self.start & (size - 1):
            words, every = _words(flags, size)
            bad = words.take(index >> size.bit_length() - 1) != every
        else:
            bad = ~np.logical_and.reduce([flags.take(index + byte) for byte in range(size)])
        if within is not None:
            bad &= within
        return bad if np.count_nonzero(bad) else None

    def _set_marks(self) -> None:
        for mark in self.marks:
            mark.set()
        self.marks.clear()

    def mark_written(self, offsets: Array, size: int, *, aligned: bool, inside: bool) -> list[Mark]:
        """Say that the elements at these offsets are written; how to take it back."""
        flags = self.initialised
        if flags is None:
            return []
        relative = offsets.ravel() - self.start
        if not inside:
            relative = relative[(relative >= 0) & (relative <= flags.shape[0] - size)]
        if aligned and not self.start & (size - 1):
            words, every = _words(flags, size)
            made = [Mark(words, relative >> size.bit_length() - 1, every)]
        else:
            made = [Mark(flags, relative + byte, np.True_) for byte in range(size)]
        self.marks += made
        if len(self.marks) > _MOST_MARKS:
            self._set_marks()
        return made


def _words(flags: Mask, size: int) -> tuple[Array, np.generic]:
    """The flags of elements of `size` bytes as one integer each, and the one of an element that is initialised."""
    every = _EVERY[size]
    return flags[: flags.shape[0] // size * size].view(every.dtype), every


def _unset_flags(count: int) -> Mask:
    """That many False; many of them take memory only where they are looked at or set."""
    if count <= _MOST_ZEROS:
        return np.zeros(count, np.bool_)
    return np.frombuffer(unreserved(count), np.bool_)


def describe_buffer(name: str, tensor: torch.Tensor, initialised: bool | torch.Tensor | Array) -> Buffer:  # noqa: FBT001
    """Describe `tensor` as a buffer of its storage.

    initialised: True, False, or one flag per byte of the tensor in its logical order. Bytes that a launch stores
    count as initialised from then on.

    Raises ValueError for a tensor whose elements overlap.
    """
    size = tensor.element_size()
    start = int(tensor.storage_offset()) * size
    length, dims, run = _extent(tuple(tensor.shape), tensor.stride(), size)
    if dims is None:
        raise ValueError(f"the elements of {name} overlap: shape {tuple(tensor.shape)}, stride {tensor.stride()}")
    end = start + length
    flags: Mask | None = None
    if not isinstance(initialised, bool):
        given = np.asarray(initialised, dtype=np.bool_).reshape(*tensor.shape, size)
        flags = _unset_flags(end - start)
        strides = tuple(s * size for s in tensor.stride())
        np.lib.stride_tricks.as_strided(flags, given.shape, (*strides, 1))[...] = given
    elif not initialised:
        flags = _unset_flags(end - start)
    return Buffer(name, start, end, dims, run, flags)


@lru_cache(maxsize=1 << 12)
def _extent(
    shape: tuple[int, ...], stride: tuple[int, ...], size: int
) -> tuple[int, tuple[tuple[int, int], ...] | None, int]:
    """Bytes from the first to behind the last of a tensor, and the dims and run of its buffer.

    No dims where its elements overlap.
    """
    dims = sorted(((n, s * size) for n, s in zip(shape, stride, strict=True) if n != 1), key=lambda d: -d[1])
    run = size
    while dims and dims[-1][1] == run:
        run *= dims.pop()[0]
    length = 0 if 0 in shape else run + sum((n - 1) * s for n, s in dims)
    inner = run
    for n, s in reversed(dims):
        if s < inner:
            return length, None, run
        inner = s * n
    return length, tuple(dims), run
