"""Poisoned buffers in the forms that tensors have in an engine: padded, fused, paged, or far-flung."""

import math

import torch

from indexfuzz.reference import layout
from indexfuzz.samples.buffers import MAX_DENSE, Buffer, reserve
from indexfuzz.samples.poison import POISON_BYTE, poison_byte

GUARD = 256
"""Bytes of guard on either side of a payload; also keeps payloads aligned."""


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
    storage = reserve(_whole_words(span + start) + 2 * GUARD, device)
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
    storage = reserve(size, device)
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


def _whole_words(size: int) -> int:
    """A number of bytes rounded up to a multiple of 8."""
    return -(-size // 8) * 8
