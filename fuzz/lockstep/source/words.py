"""A lane of a value in words, and a place in memory as an element of a tensor."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from indexfuzz.lockstep.arithmetic.fp8_codec import decode_fp8
from indexfuzz.lockstep.source.lanes import Lane
from indexfuzz.lockstep.triton_api.types import Constexpr, Tensor
from indexfuzz.lockstep.values.memory import Allocation
from indexfuzz.lockstep.values.value import Value

Places = Callable[[int], str]
"""What lies at an address; empty where that is not known."""


def describe_name(held: Any, row: int, lane: Lane | None, places: Places) -> str:
    """What a variable of a kernel held in a program of the run, at a lane; empty of what is no value."""
    if isinstance(held, Constexpr):
        held = held.value
    if isinstance(held, bool | int | float | str):
        return repr(held)
    if not isinstance(held, Tensor) or not isinstance(held.handle, Value):
        return ""
    return describe_value(held.handle, row, lane, places)


def describe_value(value: Value, row: int, lane: Lane | None, places: Places) -> str:
    """One lane of a value, or the range of all lanes where it has no such lane."""
    if not value.shape:
        lane = ()
    if lane is None or not _fits(value.shape, lane):
        return _describe_all(value, row, places)
    lane = tuple(0 if size == 1 else at for at, size in zip(lane, value.shape, strict=True))
    if value.undefined is not None and at_lane(value.undefined, row, lane):
        return "undefined"
    held = at_lane(value.data, row, lane)
    if value.origins:
        which = 0 if value.which is None else int(at_lane(value.which, row, lane))
        origin = value.origins[which]
        byte = int(held) - origin.base
        place = find_place(origin.allocation, int(held), places) if value.shape else ""
        return f"{origin.argument} + {byte} bytes{f', {place}' if place else ''}" if byte or value.shape else ""
    return describe_number(held, value)


def find_place(allocation: Allocation, offset: int, places: Places) -> str:
    """What lies at an offset in an allocation; empty beyond its ends, where only chance says whose memory it is."""
    return places(allocation.address + offset) if 0 <= offset < allocation.size else ""


def describe_number(held: Any, value: Value) -> str:
    """A number of the type of a value."""
    kind, name = value.ty.kind, value.ty.name
    if kind == "fp8":
        return f"{float(decode_fp8(np.asarray([held], np.uint8), name)[0]):g} (code 0x{int(held):02x})"
    if kind == "float":
        return f"{float(held):.9g}"
    return str(bool(held) if value.ty.bits == 1 else int(held))


def at_lane(data: Any, row: int, lane: Lane) -> Any:
    """The element of data over programs and lanes; axes of length 1 stay at 0."""
    index = (row, *lane)
    return data[tuple(0 if size == 1 else at for at, size in zip(index, data.shape, strict=True))]


def _fits(shape: tuple[int, ...], lane: Lane) -> bool:
    return len(shape) == len(lane) and all(size == 1 or at < size for at, size in zip(lane, shape, strict=True))


def _describe_all(value: Value, row: int, places: Places) -> str:
    data = value.data[row if value.data.shape[0] > 1 else 0]
    if not data.size:
        return "no lanes"
    shape, undefined = list(value.shape), find_undefined(value, row)
    if undefined is not None:
        return f"undefined in lane {undefined} of {shape}"
    first = describe_value(value, row, (0,) * len(value.shape), places)
    is_one = np.array_equal(data, np.full_like(data, data.flat[0]), equal_nan=True)
    if value.origins or value.ty.kind == "fp8" or is_one:
        return f"{first} in lane 0 of {shape}" if value.origins or value.ty.kind == "fp8" else f"{first} in all {shape}"
    low, high = (describe_number(end, value) for end in (np.nanmin(data), np.nanmax(data)))
    return f"{low} to {high} in {shape}"


def find_undefined(value: Value, row: int) -> Lane | None:
    """The first lane of a value that holds nothing which the program defined; None where all are defined."""
    if value.undefined is None:
        return None
    marks = np.broadcast_to(value.undefined, np.broadcast_shapes(value.undefined.shape, (1, *value.shape)))
    own = marks[row if len(marks) > 1 else 0]
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(own)), own.shape)) if own.any() else None


def find_element(tensor: torch.Tensor, address: int) -> tuple[int, ...] | None:
    """The index of the element of a tensor that holds the byte at an address; None where it has none."""
    byte = address - tensor.data_ptr()
    if byte < 0 or tensor.numel() == 0:
        return None
    rest, index = byte // tensor.element_size(), [0] * tensor.dim()
    for dim in sorted(range(tensor.dim()), key=tensor.stride, reverse=True):
        if tensor.shape[dim] > 1:
            stride = max(tensor.stride(dim), 1)
            index[dim] = min(rest // stride, tensor.shape[dim] - 1)
            rest -= index[dim] * stride
    return tuple(index) if rest == 0 else None


def places_in(tensors: Mapping[str, torch.Tensor]) -> Places:
    """Addresses as elements of tensors by name, the first that has them."""

    def describe(address: int) -> str:
        for name, tensor in tensors.items():
            index = find_element(tensor, address)
            if index is not None:
                return f"{name}{list(index)}"
        return ""

    return describe
