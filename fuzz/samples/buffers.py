"""Guarded, poisoned buffers: where the tensors of a sample live.

Every buffer is a storage of its own, [guard | payload | guard]. What no kernel may touch (guards, gaps between rows,
unowned bytes) holds a poison that is a NaN in every format involved, so a read beyond the end shows in the results and
a write beyond the end shows in the guards.
"""

import math
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from indexfuzz.lockstep.values.unreserved import unreserved
from indexfuzz.reference import layout

GUARD = 256
"""Bytes of guard on either side of a payload; also keeps payloads aligned."""

MAX_DENSE = 1 << 24
"""Bytes up to which the whole storage of a tensor with gaps is filled and watched."""

POISON = {
    torch.float8_e4m3fn: 0x7F,
    torch.float8_e4m3fnuz: 0x80,
    torch.uint8: 0x7F,
    torch.int32: 0x7F,
    torch.int64: 0x7F,
}
"""The byte that fills memory of a dtype before anything is written: NaN, and of integers a number too large to be an
index, where -1 would be the right answer to some questions. Other dtypes take POISON_BYTE in each byte."""

POISON_BYTE = 0xFF
"""0xFFFF is a NaN in bf16 and 0xFFFFFFFF in fp32."""


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
        return typed.as_strided(shape, (watched.shape[1] // item, *strides[1:]), lead)

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
            storage = _reserve(self.size, self.snapshot.device)
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


def _reserve(size: int, device: str | torch.device) -> Tensor:
    """Bytes of nobody, uint8 [size]; a CPU's take memory only where they are written, however many they are."""
    if size <= MAX_DENSE or torch.device(device).type != "cpu":
        return torch.empty(size, dtype=torch.uint8, device=device)
    return torch.frombuffer(unreserved(size), dtype=torch.uint8)


def _whole_words(size: int) -> int:
    """A number of bytes rounded up to a multiple of 8."""
    return -(-size // 8) * 8


def poison_byte(dtype: torch.dtype) -> int:
    """The byte that unwritten memory of a dtype holds."""
    return POISON.get(dtype, POISON_BYTE)


def poison_like(tensor: Tensor) -> Tensor:
    """What memory of a tensor's form holds before anything is written, dense."""
    raw = torch.full((tensor.numel() * tensor.element_size(),), poison_byte(tensor.dtype), dtype=torch.uint8)
    return raw.to(tensor.device).view(tensor.dtype).view(tensor.shape)


def allocate(
    name: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: str,
    *,
    row_pad: int = 0,
    step: int = 1,
    shift: int = 0,
) -> Buffer:
    """A poisoned buffer: `row_pad` elements of gap follow each row of the last dimension's parent.

    A tensor [..., C] with row_pad p has strides as a column slice of a fused [..., C + p] projection. Elements of a row
    lie `step` apart; the first starts `shift` elements after an aligned address.
    """
    item = dtype.itemsize
    own = shape[-1] * step if shape else 1
    columns, rows = own + row_pad, math.prod(shape[:-1])
    payload = rows * columns * item
    if payload > MAX_DENSE and row_pad * item > MAX_DENSE // rows:
        return _allocate_far(name, shape, dtype, device, row_stride=columns, shift=shift)
    start = GUARD + shift * item
    size = _whole_words(payload + shift * item) + 2 * GUARD
    storage = torch.full((size,), poison_byte(dtype), dtype=torch.uint8, device=device)
    typed = storage[start : start + payload].view(dtype)
    view = typed.view(*shape[:-1], columns)[..., :own:step] if shape else typed.view(())
    return Buffer(name, view, storage, storage.unsqueeze(0))


def _allocate_far(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, device: str, *, row_stride: int, shift: int
) -> Buffer:
    """A poisoned buffer whose rows lie so far apart that only they, and a guard around each, are ever touched."""
    item, (*outer, columns) = dtype.itemsize, shape
    rows, start = math.prod(outer), shift * item
    span = ((rows - 1) * row_stride + columns) * item
    storage = _reserve(_whole_words(span + start) + 2 * GUARD, device)
    watched = storage.as_strided((rows, columns * item + 2 * GUARD), (row_stride * item, 1), start)
    watched.fill_(poison_byte(dtype))
    strides = [row_stride * math.prod(outer[i + 1 :]) for i in range(len(outer))]
    view = storage[start + GUARD : start + GUARD + span].view(dtype).as_strided(shape, (*strides, 1))
    return Buffer(name, view, storage, watched)


def allocate_tokens(
    name: str,
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    device: str,
    *,
    pad: int,
    head_pad: int = 0,
    shift: int = 0,
) -> Buffer:
    """A poisoned [T, H, D] buffer: heads lie D + head_pad elements apart, tokens H * (D + head_pad) + pad."""
    tokens, heads, dim = shape
    columns = heads * (dim + head_pad)
    buffer = allocate(name, (tokens, columns), dtype, device, row_pad=pad, shift=shift)
    buffer.view = buffer.view.as_strided(shape, (columns + pad, dim + head_pad, 1))
    return buffer


def allocate_fused(
    names: tuple[str, str], widths: tuple[int, int], tokens: int, dtype: torch.dtype, device: str, *, shift: int
) -> tuple[Buffer, Buffer, Buffer]:
    """Two poisoned buffers [T, width] side by side in the rows of one storage, and the guards around both.

    Each watches its own columns; the third is of no tensor and watches what lies before the first row and behind the
    last.
    """
    row, item = sum(widths), dtype.itemsize
    payload, lead = tokens * row * item, shift * item
    size = _whole_words(payload + lead) + 2 * GUARD
    storage = torch.full((size,), poison_byte(dtype), dtype=torch.uint8, device=device)
    start = GUARD + lead
    typed = storage[start : start + payload].view(dtype).view(tokens, row)
    parts = []
    for name, width, first in zip(names, widths, (0, widths[0]), strict=True):
        watched = storage.as_strided((tokens, width * item), (row * item, 1), start + first * item)
        parts.append(Buffer(name, typed[:, first : first + width], storage, watched))
    guards = storage.as_strided((2, GUARD), (GUARD + payload, 1), lead)
    nothing = storage[start:start]
    return parts[0], parts[1], Buffer("+".join(names), nothing, storage, guards)


def allocate_pages(
    name: str,
    shape: tuple[int, int, int],
    device: str,
    *,
    page_pad: int = 0,
    fp8: torch.dtype = torch.float8_e4m3fn,
    shift: int = 0,
) -> Buffer:
    """A poisoned paged cache uint8 [num_blocks, block_size, D + 4], `page_pad` bytes between its pages.

    Codes, of the dtype `fp8`, and scales are NaN; the first page lies `shift` bytes after an aligned address. Beyond
    MAX_DENSE bytes only the pages and the guard around each are ever touched, so that a stride of gigabytes costs no
    memory.
    """
    blocks, block_size, token_bytes = shape
    page = block_size * token_bytes
    page_stride = page + page_pad
    size = _whole_words(max(blocks, 1) * page_stride + shift) + 2 * GUARD
    storage = _reserve(size, device)
    if size <= MAX_DENSE or page_stride < page + 2 * GUARD:
        rows = storage.unsqueeze(0)
    else:
        rows = storage.as_strided((blocks, page + 2 * GUARD), (page_stride, 1), shift)
    rows.fill_(POISON_BYTE)
    view = storage.as_strided(shape, (page_stride, token_bytes, 1), GUARD + shift)
    poison = torch.full((page,), POISON_BYTE, dtype=torch.uint8)
    poison[: page - block_size * layout.SCALE_BYTES] = poison_byte(fp8)
    view.copy_(poison.view(block_size, token_bytes))
    return Buffer(name, view, storage, rows)
