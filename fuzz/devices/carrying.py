"""Carrying the tensors of a launch to a GPU and back, all in one copy each way.

What surrounds the launches of a case, its inputs, reference and checks, is hundreds of operations on a few kilobytes:
each costs a GPU several times what it costs a CPU. So cases live on the CPU, and a launch gets the same storages,
guards included, side by side in memory of the GPU. Of a storage that spans more than MOST_CARRIED bytes a copy holds
what the tensors of the launch touch, and AROUND bytes before and behind each row; it lies in an expanse of its own.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol

import torch
from torch import Tensor

from indexfuzz.devices.cuda_memory import expanse, is_supported
from indexfuzz.devices.plain import PlainSession

LINE = 512
"""Bytes between the starts of two storages are a multiple of this: every alignment is as it was."""

MOST_CARRIED = 1 << 24
"""Bytes of a storage that are carried whatever they hold."""

FAR = 1 << 20
"""Bytes from which on a stride leads to another row."""

AROUND = 256
"""Bytes on either side of a row, guards of its own."""

TRIES = 40
"""How often room is asked for."""

PAUSE = 0.05
"""Seconds between two tries."""


class FarMemory(Protocol):
    """Where storages lie that span gigabytes."""

    def clear(self) -> None:
        """Begin a launch: nothing is taken."""

    def take(self, size: int) -> tuple[Tensor, int]:
        """Room for so many bytes: some memory, uint8, and where the room starts in it. Raises OutOfMemoryError."""

    def back(self, rows: Tensor) -> None:
        """Let rows, uint8, hold what is written to them. Raises OutOfMemoryError."""


class Allocated:
    """What PyTorch allocates on a device, whole."""

    def __init__(self, device: str) -> None:
        self._device = device

    def clear(self) -> None:
        """Nothing is kept here."""

    def take(self, size: int) -> tuple[Tensor, int]:
        """Memory of its own."""
        return torch.empty(size, dtype=torch.uint8, device=self._device), 0

    def back(self, rows: Tensor) -> None:
        """It does."""


@dataclass
class Place:
    """Where the copy of a storage is: from byte `start` of far memory on, or of what all others share."""

    storage: torch.UntypedStorage
    start: int
    far: Tensor | None = None


@dataclass(frozen=True)
class Part:
    """Bytes that travel together: `own` on the CPU, from `start` among all that travel, `far` where they then go."""

    own: Tensor
    start: int
    far: Tensor | None = None


class Carrier:
    """Memory on a device for what is carried there; one launch at a time. `far` makes what it has of far memory."""

    def __init__(self, device: str, far: Callable[[], FarMemory] | None = None) -> None:
        self._device = device
        self._far = cache(far or partial(Allocated, device))
        self._here = torch.empty(0, dtype=torch.uint8)
        self._there = torch.empty(0, dtype=torch.uint8, device=device)
        self._places: dict[int, Place] = {}
        self._parts: list[Part] = []
        self._size = 0

    def bring(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same tensors on the device: views of copies of their storages, shared where they were shared.

        Those that are there stay where they are. Where there is no room, other processes are waited for: theirs is
        taken for a launch alone. Raises OutOfMemoryError after TRIES.
        """
        for _ in range(TRIES - 1):
            with suppress(torch.OutOfMemoryError):
                return self._bring(tensors)
            self._places, self._parts = {}, []
            if self._device == "cuda":
                torch.cuda.empty_cache()
            time.sleep(PAUSE)
        return self._bring(tensors)

    def _bring(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self._places, self._parts, self._size = {}, [], 0
        if not any(tensor.device.type == "cpu" for tensor in tensors.values()):
            return dict(tensors)
        if any(_is_far(tensor.untyped_storage()) for tensor in tensors.values()):
            self._far().clear()
        places = [self._add(tensor) for tensor in tensors.values()]
        if self._size > len(self._there):
            self._here = torch.empty(2 * self._size, dtype=torch.uint8, pin_memory=self._device == "cuda")
            self._there = torch.empty(2 * self._size, dtype=torch.uint8, device=self._device)
        for part in self._parts:
            _slot(self._here, part).copy_(part.own)
        self._there[: self._size].copy_(self._here[: self._size], non_blocking=True)
        for part in self._parts:
            if part.far is not None:
                part.far.copy_(_slot(self._there, part))
        return {
            name: view_of(tensor, self._memory(place).untyped_storage(), place.start + start_of(tensor))
            for (name, tensor), place in zip(tensors.items(), places, strict=True)
        }

    def take_back(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the storages that were brought what they hold there; the outputs of a launch, on the CPU."""
        if not self._places:
            return dict(outputs)
        if self._device == "cuda":
            torch.cuda.synchronize()
        for part in self._parts:
            if part.far is not None:
                _slot(self._there, part).copy_(part.far)
        self._here[: self._size].copy_(self._there[: self._size])
        for part in self._parts:
            part.own.copy_(_slot(self._here, part))
        return {name: self._return(output) for name, output in outputs.items()}

    def _add(self, tensor: Tensor) -> Place:
        storage = tensor.untyped_storage()
        place, is_far = self._places.get(storage.data_ptr()), _is_far(storage)
        if place is None:
            far, start = self._far().take(storage.nbytes()) if is_far else (None, self._size)
            place = self._places[storage.data_ptr()] = Place(storage, start, far)
        elif not is_far:
            return place
        if is_far and not tensor.numel():
            return place
        own, rows = bytes_of(storage), None
        if place.far is not None:
            own, rows = _rows_of(tensor, own), _rows_of(tensor, place.far, place.start)
            self._far().back(rows)
        self._parts.append(Part(own, self._size, rows))
        self._size += -(-own.numel() // LINE) * LINE
        return place

    def _memory(self, place: Place) -> Tensor:
        return self._there if place.far is None else place.far

    def _return(self, output: Tensor) -> Tensor:
        """An output on the CPU: what it is a view of there, or of a copy of its storage."""
        address, start = output.untyped_storage().data_ptr(), start_of(output)
        holding = [p for p in self._places.values() if self._memory(p).data_ptr() == address and p.start <= start]
        if not holding:
            return view_of(output, bytes_of(output.untyped_storage()).cpu().untyped_storage(), start)
        place = max(holding, key=lambda place: place.start)
        return view_of(output, place.storage, start - place.start)


def _is_far(storage: torch.UntypedStorage) -> bool:
    return storage.nbytes() > MOST_CARRIED


@cache
def carrier_to(device: str) -> Carrier:
    """The carrier of this process."""
    return Carrier(device, expanse if device == "cuda" and is_supported() else None)


@dataclass(frozen=True)
class CarryingSession(PlainSession):
    """A session whose kernels run elsewhere than the tensors of cases are."""

    carrier: Carrier

    def bring(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By its carrier."""
        return self.carrier.bring(tensors)

    def take_back(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By its carrier."""
        return self.carrier.take_back(outputs)


def _slot(memory: Tensor, part: Part) -> Tensor:
    """The bytes of a part among those that travel, in its shape."""
    return memory[part.start : part.start + part.own.numel()].view(part.own.shape)


def _rows_of(tensor: Tensor, memory: Tensor, origin: int = 0) -> Tensor:
    """The rows of a tensor with what lies around each, in memory where its storage starts at byte `origin`."""
    item = tensor.element_size()
    axes = [(size, stride * item) for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
    outer = [(size, stride) for size, stride in axes if stride > FAR]
    row = item + sum((size - 1) * stride for size, stride in axes if stride <= FAR)
    first, last = start_of(tensor), sum((size - 1) * stride for size, stride in outer) + row
    before, behind = min(AROUND, first), min(AROUND, tensor.untyped_storage().nbytes() - first - last)
    shape, strides = [size for size, _ in outer], [stride for _, stride in outer]
    return memory.as_strided([*shape, before + row + behind], [*strides, 1], origin + first - before)


def start_of(tensor: Tensor) -> int:
    """The first byte of a tensor in its storage."""
    return int(tensor.storage_offset()) * tensor.element_size()


def bytes_of(storage: torch.UntypedStorage) -> Tensor:
    """All bytes of a storage."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def view_of(like: Tensor, storage: torch.UntypedStorage, start: int) -> Tensor:
    """A tensor of the same form in another storage, from a byte on."""
    made = torch.empty(0, dtype=like.dtype, device=storage.device)
    return made.set_(storage, start // like.element_size(), like.shape, like.stride())
