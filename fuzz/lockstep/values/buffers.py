"""Logical tensors inside a storage that is larger than they are, and which of their bytes hold something."""

from dataclasses import dataclass

import numpy as np
import torch

from indexfuzz.lockstep.values.arrays import Array, Mask, Undo


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
        relative = offsets - self.start if self.start else offsets
        within = None if inside else (relative >= 0) & (relative <= flags.shape[0] - size)
        index = relative if within is None else np.where(within, relative, 0)
        bad: Mask
        if aligned and not self.start & (size - 1):
            words, every = _words(flags, size)
            bad = words.take(index // size) != every
        else:
            bad = ~np.logical_and.reduce([flags.take(index + byte) for byte in range(size)])
        if within is not None:
            bad &= within
        return bad if bad.any() else None

    def mark_written(self, offsets: Array, size: int, *, aligned: bool, inside: bool) -> list[Undo]:
        """Say that the elements at these offsets are written; how to take it back."""
        flags = self.initialised
        if flags is None:
            return []
        relative = offsets.ravel() - self.start
        if not inside:
            relative = relative[(relative >= 0) & (relative <= flags.shape[0] - size)]
        if aligned and not self.start & (size - 1):
            words, every = _words(flags, size)
            return [_mark(words, relative // size, every)]
        return [_mark(flags, relative + byte, np.True_) for byte in range(size)]


def _mark(flags: Array, index: Array, value: np.generic) -> Undo:
    undo = Undo(flags, index, flags.take(index))
    flags[index] = value
    return undo


def _words(flags: Mask, size: int) -> tuple[Array, np.generic]:
    """The flags of elements of `size` bytes as one integer each, and the one of an element that is initialised."""
    words = flags[: flags.shape[0] // size * size].view(f"u{size}")
    return words, words.dtype.type(sum(1 << 8 * byte for byte in range(size)))


def describe_buffer(name: str, tensor: torch.Tensor, initialised: bool | torch.Tensor | Array) -> Buffer:  # noqa: FBT001
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
