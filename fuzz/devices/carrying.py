"""Carrying the tensors of a launch to a GPU and back, all in one copy each way.

What surrounds the launches of a small case, its inputs, reference and checks, is hundreds of operations on a few
kilobytes: each costs a GPU several times what it costs a CPU. So such a case lives on the CPU, and a launch gets the
same storages, guards included, side by side in memory of the GPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.devices.plain import PlainSession
from indexfuzz.reference.layout import SCALE_BYTES

LINE = 512
"""Bytes between the starts of two storages are a multiple of this: every alignment is as it was."""


MOST_CARRIED = 1 << 24
"""Bytes that the cache of a case may span, to be carried."""


def is_small(case: Case) -> bool:
    """Whether no tensor of a case spans more memory than is worth carrying."""
    page = case.cache.block_size * (case.model.head_dim + SCALE_BYTES) + case.cache.page_pad
    return case.memory.far == "none" and case.num_blocks * page <= MOST_CARRIED


@dataclass(frozen=True)
class Place:
    """Where a storage lies among those that are carried together, from byte `start` to `end`."""

    start: int
    end: int
    storage: torch.UntypedStorage


class Carrier:
    """Memory on a device for what is carried there; one launch at a time."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._here = torch.empty(0, dtype=torch.uint8)
        self._there = torch.empty(0, dtype=torch.uint8, device=device)
        self._places: dict[int, Place] = {}
        self._size = 0

    def bring(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same tensors on the device: views of copies of whole storages, shared where they were shared.

        Those of a case that lives there stay where they are.
        """
        self._places, self._size = {}, 0
        if not any(tensor.device.type == "cpu" for tensor in tensors.values()):
            return dict(tensors)
        starts = [self._add(tensor.untyped_storage()).start for tensor in tensors.values()]
        self._reserve(self._size)
        for place in self._places.values():
            self._here[place.start : place.end].copy_(_bytes_of(place.storage))
        self._there[: self._size].copy_(self._here[: self._size], non_blocking=True)
        memory = self._there.untyped_storage()
        return {
            name: _view(tensor, memory, start + _start_of(tensor))
            for (name, tensor), start in zip(tensors.items(), starts, strict=True)
        }

    def take_back(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the storages that were brought what they hold there; the outputs of a launch, on the CPU."""
        if not self._places:
            return dict(outputs)
        if self._device == "cuda":
            torch.cuda.synchronize()
        self._here[: self._size].copy_(self._there[: self._size])
        for place in self._places.values():
            _bytes_of(place.storage).copy_(self._here[place.start : place.end])
        return {name: self._return(output) for name, output in outputs.items()}

    def _add(self, storage: torch.UntypedStorage) -> Place:
        place = self._places.get(storage.data_ptr())
        if place is None:
            place = Place(self._size, self._size + storage.nbytes(), storage)
            self._places[storage.data_ptr()] = place
            self._size = -(-place.end // LINE) * LINE
        return place

    def _reserve(self, size: int) -> None:
        if size > len(self._there):
            self._here = torch.empty(2 * size, dtype=torch.uint8, pin_memory=self._device == "cuda")
            self._there = torch.empty(2 * size, dtype=torch.uint8, device=self._device)

    def _return(self, output: Tensor) -> Tensor:
        """An output on the CPU: what it is a view of there, or of a copy of its storage."""
        start = _start_of(output)
        if output.untyped_storage().data_ptr() != self._there.untyped_storage().data_ptr():
            return _view(output, _bytes_of(output.untyped_storage()).cpu().untyped_storage(), start)
        place = max((place for place in self._places.values() if place.start <= start), key=lambda place: place.start)
        return _view(output, place.storage, start - place.start)


@cache
def carrier_to(device: str) -> Carrier:
    """The carrier of this process."""
    return Carrier(device)


@dataclass(frozen=True)
class CarryingSession(PlainSession):
    """A session whose kernels run elsewhere than the tensors of small cases are."""

    carrier: Carrier

    def bring(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By its carrier."""
        return self.carrier.bring(tensors)

    def take_back(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By its carrier."""
        return self.carrier.take_back(outputs)


def _start_of(tensor: Tensor) -> int:
    """The first byte of a tensor in its storage."""
    return int(tensor.storage_offset()) * tensor.element_size()


def _bytes_of(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _view(like: Tensor, storage: torch.UntypedStorage, start: int) -> Tensor:
    """A tensor of the same form in another storage, from a byte on."""
    made = torch.empty(0, dtype=like.dtype, device=storage.device)
    return made.set_(storage, start // like.element_size(), like.shape, like.stride())
