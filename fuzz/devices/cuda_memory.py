"""Addresses of an NVIDIA GPU and the memory behind them, by the driver's functions for virtual memory."""

import ctypes
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from indexfuzz.devices.expanse import PART, Expanse

OUT_OF_MEMORY = 2
IS_SUPPORTED = 102
"""The driver's numbers of an error, and of whether a GPU can do this."""

ON_DEVICE, PINNED, READ_AND_WRITE = 1, 1, 3


class _Location(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int), ("device", ctypes.c_int))


class _Form(ctypes.Structure):
    """CUmemAllocationProp: what memory is asked for."""

    _fields_ = (
        ("kind", ctypes.c_int),
        ("handles", ctypes.c_int),
        ("location", _Location),
        ("of_windows", ctypes.c_void_p),
        ("flags", ctypes.c_ubyte * 8),
    )


class _Access(ctypes.Structure):
    """CUmemAccessDesc: who may do what."""

    _fields_ = (("location", _Location), ("may", ctypes.c_int))


class DriverMapper:
    """The GPU that PyTorch uses in this process."""

    def __init__(self) -> None:
        torch.cuda.synchronize()  # what follows takes a context
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._location = _Location(ON_DEVICE, torch.cuda.current_device())
        self._address = self._size = 0

    def reserve(self, size: int) -> None:
        """By cuMemAddressReserve."""
        address = ctypes.c_ulonglong()
        self._call("cuMemAddressReserve", ctypes.byref(address), *_words(size, PART, 0, 0))
        self._address, self._size = address.value, size

    def tensor(self) -> Tensor:
        """Of memory that PyTorch has not allocated."""
        form = {"data": (self._address, False), "shape": (self._size,), "typestr": "|u1", "version": 2}
        return torch.as_tensor(SimpleNamespace(__cuda_array_interface__=form), device="cuda")

    def create(self) -> int:
        """By cuMemCreate."""
        piece, form = ctypes.c_ulonglong(), _Form(PINNED, 0, self._location)
        self._call("cuMemCreate", ctypes.byref(piece), ctypes.c_size_t(PART), ctypes.byref(form), ctypes.c_ulonglong(0))
        return piece.value

    def map(self, first: int, pieces: list[int]) -> None:
        """By cuMemMap for each, and cuMemSetAccess for all."""
        for number, piece in enumerate(pieces):
            self._call("cuMemMap", self._at(first + number * PART), *_words(PART, 0, piece, 0))
        access = _Access(self._location, READ_AND_WRITE)
        size = ctypes.c_size_t(len(pieces) * PART)
        self._call("cuMemSetAccess", self._at(first), size, ctypes.byref(access), ctypes.c_size_t(1))

    def unmap(self, first: int) -> None:
        """By cuMemUnmap."""
        torch.cuda.synchronize()
        self._call("cuMemUnmap", self._at(first), ctypes.c_size_t(PART))

    def _at(self, offset: int) -> ctypes.c_ulonglong:
        return ctypes.c_ulonglong(self._address + offset)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code == OUT_OF_MEMORY:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {name}")
        if code:
            raise RuntimeError(f"{name} of the CUDA driver failed with {code}")


def _words(*numbers: int) -> tuple[ctypes.c_ulonglong, ...]:
    return tuple(map(ctypes.c_ulonglong, numbers))


@cache
def is_supported() -> bool:
    """Whether the GPU of this process has virtual memory."""
    answer = ctypes.c_int()
    device = torch.cuda.current_device()
    ctypes.CDLL("libcuda.so.1").cuDeviceGetAttribute(ctypes.byref(answer), IS_SUPPORTED, device)
    return bool(answer.value)


def expanse() -> Expanse:
    """One on the GPU of this process."""
    return Expanse(DriverMapper())
