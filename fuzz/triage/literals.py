"""Tensors as Python text, exact in bits, dtype, strides and alignment."""

import base64
import zlib
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from indexfuzz.samples.poison import poison_byte
from indexfuzz.triage.launches import ReproError, offset_of

MAX_LITERAL = 160
"""Elements up to which a tensor is written out; larger ones are packed."""

MANY = 4
"""Rows or numbers that are written once where they are the same."""

MAX_PACKED = 200_000
"""Characters of a packed tensor."""

UNPACK = '''

def unpack(text, dtype, shape):
    """A tensor from its compressed bytes."""
    data = bytearray(zlib.decompress(base64.b85decode(text)))
    return torch.frombuffer(data, dtype=torch.uint8).view(dtype).reshape(shape)
'''
STRIDED = '''

def strided(tensor, stride, offset):
    """The tensor as a slice of something larger: with other strides, not at the start, and poison between."""
    span = offset + 1 + sum((size - 1) * step for size, step in zip(tensor.shape, stride))
    size, poison = max(span, 0) * tensor.itemsize, 0xFF if tensor.is_floating_point() and tensor.itemsize > 1 else 0x7F
    if size > 1 << 28 and DEVICE == "cpu":  # memory that counts only where it is written, zeros elsewhere
        import mmap

        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000
        storage = torch.frombuffer(mmap.mmap(-1, size, flags=flags), dtype=torch.uint8)
    else:
        storage = torch.full((size,), poison, dtype=torch.uint8, device=DEVICE)
    return storage.view(tensor.dtype).as_strided(tensor.shape, stride, offset).copy_(tensor)
'''
RAW = '''

def raw(tensor):
    """The bytes of a tensor, dense; its last dim times the size of an element."""
    return tensor.clone(memory_format=torch.contiguous_format).view(torch.uint8)
'''

UNWRITTEN = '''

def unwritten(shape, dtype):
    """Poison for memory that nobody has written: each element is NaN, or of integers too large to be an index."""
    byte = 0xFF if dtype.is_floating_point and dtype.itemsize > 1 else 0x80 if "fnuz" in str(dtype) else 0x7F
    return torch.full((*shape[:-1], shape[-1] * dtype.itemsize), byte, dtype=torch.uint8).view(dtype)
'''

HOLDING = '''

def holding(state):
    """Which bytes of a state somebody has written: not those of words that are ones all over."""
    words = state.view(torch.int16 if state[0, 0, 0].nbytes % 4 else torch.int32)
    return (words != -1).repeat_interleave(words.itemsize, -1)
'''

HELPERS = {
    "unpack(": UNPACK,
    "strided(": STRIDED,
    "raw(": RAW,
    "unwritten(": UNWRITTEN,
    "holding(": HOLDING,
}
"""Text that a script needs where such a call is in it."""


def helpers_for(body: str) -> str:
    """The helpers that a script with such a body needs."""
    return "".join(text for call, text in HELPERS.items() if call in body)


def _dense_strides(tensor: Tensor) -> tuple[int, ...]:
    """The strides of a dense tensor of that shape, dims of size 1 included."""
    return torch.empty(tensor.shape, device="meta").stride()


def expression(value: Any) -> str:
    """Python that makes a value: tensors on DEVICE with their dtype and strides, options as they are.

    Raises ReproError when a tensor takes too much text.
    """
    if not isinstance(value, Tensor):
        return repr(value)
    text = f"{_dense(value)}.to(DEVICE)"
    is_plain = value.stride() == _dense_strides(value) and not offset_of(value)
    return text if is_plain else f"strided({text}, {tuple(value.stride())}, {offset_of(value)})"


def raw(tensor: Tensor) -> Tensor:
    """The same here: a tensor of one element counts as contiguous whatever its stride."""
    return tensor.clone(memory_format=torch.contiguous_format).view(torch.uint8)


def _dense(tensor: Tensor) -> str:
    raw = tensor.clone(memory_format=torch.contiguous_format)
    shape, dtype = tuple(tensor.shape), str(tensor.dtype)
    if tensor.dtype.itemsize == 1 and tensor.is_floating_point():
        return f"{_dense(raw.view(torch.uint8))}.view({dtype})"
    data = raw.flatten().view(torch.uint8)
    first = raw.flatten()[:1]
    if raw.numel() == 0:
        return f"torch.empty({shape}, dtype={dtype})"
    if shape and data.numel() > 3 and bool((data == poison_byte(raw.dtype)).all()):
        return f"unwritten({shape}, {dtype})"
    if raw.numel() > 4 and bool((data.view(-1, raw.element_size()) == first.view(torch.uint8)).all()):
        return f"torch.full({shape}, {_literal(first[0])}, dtype={dtype})"
    exact = not raw.is_floating_point() or not bool(raw.isnan().any())
    if raw.numel() <= MAX_LITERAL and exact:
        return f"torch.tensor({_literals(raw)}, dtype={dtype})"
    packed = base64.b85encode(zlib.compress(bytes(data.tolist()), 9)).decode()
    if len(packed) > MAX_PACKED:
        raise ReproError(f"an input of shape {list(shape)} is too large for a script; minimise the case first")
    return f"unpack({packed!r}, {dtype}, {shape})"


def _literals(tensor: Tensor) -> str:
    """Nested lists; what is the same many times in a row is written once."""
    if tensor.dim() == 0:
        return _literal(tensor)
    pieces, single = list[str](), list[str]()
    for text, same in groupby(map(_literals, tensor)):
        count = len(list(same))
        if count < MANY:
            single += [text] * count
            continue
        pieces += [f"[{', '.join(single)}]"] if single else []
        pieces.append(f"[{text}] * {count}")
        single = []
    return " + ".join(pieces + ([f"[{', '.join(single)}]"] if single else []))


def _literal(value: Tensor) -> str:
    """One number: Python's shortest text of a double is exact for floats of 16 and 32 bits."""
    return repr(value.item())
