"""Guarded buffers: where the tensors of a sample live, and whether anybody has written where they must not.

Every buffer is a storage of its own, [guard | payload | guard]. What no kernel may touch (guards, gaps between rows,
unowned bytes) holds poison, and a write beyond the end shows there.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from indexfuzz.lockstep.values.unreserved import unreserved
from indexfuzz.samples.poison import poison_byte

MAX_DENSE = 1 << 24
"""Bytes up to which the whole storage of a tensor with gaps is filled and watched."""


@dataclass
class Buffer:
    """One tensor inside its guarded storage.

    `view` is the tensor that kernels get. `snapshot` holds the bytes as they were at the last `seal`.
    `rows` is what is watched of the storage: all of it, or the surroundings of each row of a far-flung tensor.
    """

    name: str
    view: Tensor
    storage: Tensor
    rows: Tensor
    snapshot: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))
    _sealed: tuple[Tensor, Tensor] = field(init=False, repr=False)
    """Rows and snapshot in words."""

    def seal(self, snapshot: Tensor | None = None) -> None:
        """Remember the bytes as they are now; `snapshot` is a copy of them, where somebody has one."""
        self.snapshot = self.rows.clone() if snapshot is None else snapshot
        self._sealed = _words(self.rows, self.snapshot)

    def restore(self) -> None:
        """Put back what lies around the payload, and the payload's bytes of the last `seal`."""
        self.rows.copy_(self.snapshot)

    @property
    def sealed(self) -> "Sealed":
        """What it takes to make the buffer again as it was sealed."""
        return Sealed(
            self.name,
            id(self.storage),
            self.storage.numel(),
            self.view.dtype,
            _place_of(self.view),
            _place_of(self.rows),
            self.snapshot,
        )

    def first_change(self, *, payload_may_change: bool) -> int | None:
        """Offset in bytes, from the first payload byte, of the first byte changed since `seal`; None if intact."""
        expected = self.snapshot
        if payload_may_change:
            if self._ends_are_intact():
                return None
            expected = expected.clone()
            self._payload(expected).copy_(self.view)
        if torch.equal(*(_words(self.rows, expected) if payload_may_change else self._sealed)):
            return None
        row, column = (self.rows != expected).nonzero()[0].tolist()
        lead = self.view.storage_offset() * self.view.element_size() - self.rows.storage_offset()
        return int(row * self.rows.stride(0) + column - lead)

    def differs(self, *, payload_may_change: bool) -> Tensor:
        """Whether `first_change` would find one: a bool on the buffer's device, which nobody has to wait for."""
        rows, expected = self._sealed
        if payload_may_change:
            own = self.snapshot.clone()
            self._payload(own).copy_(self.view)
            rows, expected = _words(self.rows, own)
        return (rows != expected).any()

    @property
    def _is_whole(self) -> bool:
        """Whether the whole storage is watched."""
        return len(self.rows) == 1 and self.rows.shape[1] == self.storage.numel()

    def _ends_are_intact(self) -> bool:
        """Whether a payload without gaps has intact guards on both sides; False for any other."""
        if not self._is_whole or not self.view.is_contiguous():
            return False
        start = self.view.storage_offset() * self.view.element_size()
        end = start + self.view.numel() * self.view.element_size()
        rows, snapshot = self.rows[0], self.snapshot[0]
        return torch.equal(rows[:start], snapshot[:start]) and torch.equal(rows[end:], snapshot[end:])

    def _payload(self, watched: Tensor) -> Tensor:
        """The payload inside a dense copy of the watched bytes, as a view of it."""
        shape, strides, offset = self.view.shape, self.view.stride(), self.view.storage_offset()
        item = self.view.element_size()
        if self._is_whole:
            return watched[0].view(self.view.dtype).as_strided(shape, strides, offset)
        lead = offset - self.rows.storage_offset() // item
        typed = watched.flatten().view(self.view.dtype)
        apart, dense = self.rows.stride(0) // item, watched.shape[1] // item
        return typed.as_strided(shape, [stride // apart * dense + stride % apart for stride in strides], lead)

    def element(self, offset: int) -> tuple[int, ...] | None:
        """Index of the element at a byte offset from the first payload byte; None for a byte of no element."""
        rest, index = offset // self.view.element_size(), []
        for size, stride in zip(self.view.shape, self.view.stride(), strict=True):
            index.append(rest // stride if stride else 0)
            rest -= index[-1] * stride
            if not 0 <= index[-1] < size:
                return None
        return tuple(index) if rest == 0 and self.view.numel() else None

    @property
    def nbytes(self) -> int:
        """Bytes from the first to the last of the payload."""
        if not self.view.numel():
            return 0
        last = sum((size - 1) * stride for size, stride in zip(self.view.shape, self.view.stride(), strict=True))
        return (last + 1) * self.view.element_size()


Place = tuple[torch.Size, tuple[int, ...], int]
"""Shape, strides and offset of a tensor in its storage."""


def _place_of(tensor: Tensor) -> Place:
    return tensor.shape, tensor.stride(), int(tensor.storage_offset())


@dataclass(frozen=True)
class Sealed:
    """A buffer without its memory: where its view and rows lie in a storage of `size` bytes, and what the rows hold.

    Buffers of one storage have the same `owner`.
    """

    name: str
    owner: int
    size: int
    dtype: torch.dtype
    view: Place
    rows: Place
    snapshot: Tensor

    def make(self, storages: dict[int, Tensor]) -> Buffer:
        """The buffer in new memory; `storages` holds what was made for buffers before it, by owner."""
        storage = storages.get(self.owner)
        if storage is None:
            storage = reserve(self.size, self.snapshot.device)
            if self.size <= MAX_DENSE:
                storage.fill_(poison_byte(self.dtype))
            storages[self.owner] = storage
        rows = storage.as_strided(*self.rows)
        rows.copy_(self.snapshot)
        view = torch.empty(0, dtype=self.dtype, device=storage.device)
        shape, strides, offset = self.view
        view.set_(storage.untyped_storage(), offset, shape, strides)
        buffer = Buffer(self.name, view, storage, rows)
        buffer.seal(self.snapshot)
        return buffer


def suspects(buffers: Iterable[Buffer], filled: Container[str]) -> list[Buffer]:
    """The buffers worth asking for their first change; only the payload of those that are `filled` may change.

    All of them on a CPU. On a GPU every answer takes a wait, so there is one for all buffers, and few are left.
    """
    asked = list(buffers)
    if not asked or not asked[0].rows.is_cuda:
        return asked
    differ = torch.stack([buffer.differs(payload_may_change=buffer.name in filled) for buffer in asked]).tolist()
    return [buffer for buffer, differs in zip(asked, differ, strict=True) if differs]


def _words(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Bytes as the widest integers that the rows of both divide into, to be compared fast."""
    for dtype in (torch.int64, torch.int32):
        sizes = (rows.shape[-1], rows.stride(0), rows.storage_offset(), others.stride(0))
        if not any(size % dtype.itemsize for size in sizes):
            return rows.view(dtype), others.view(dtype)
    return rows, others


def reserve(size: int, device: str | torch.device) -> Tensor:
    """Bytes of nobody, uint8 [size]; a CPU's take memory only where they are written, however many they are."""
    if size <= MAX_DENSE or torch.device(device).type != "cpu":
        return torch.empty(size, dtype=torch.uint8, device=device)
    return torch.frombuffer(unreserved(size), dtype=torch.uint8)
