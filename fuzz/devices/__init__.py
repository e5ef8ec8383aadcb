"""Where kernels run: `open_device` by name; lockstep imports no GPU runtime, cuda no executor."""

from dataclasses import replace
from importlib import import_module
from typing import Any

from indexfuzz.devices.base import Device, DeviceError, MaskCoverage

DEVICES = ("lockstep", "lockstep:sm90", "lockstep:cdna3", "lockstep:order", "interpreter", "cuda")
"""What stands behind lockstep's colon is the matrix unit whose bits tl.dot has, IEEE arithmetic without one; or the
checker that is on only where it is named."""

CLASSES = {
    "lockstep": ("lockstep", "LockstepDevice"),
    "interpreter": ("interpreter", "InterpreterDevice"),
    "cuda": ("cuda", "CudaDevice"),
}
"""Name before the colon -> module and class."""


def open_device(name: str) -> Device:
    """The device of a name, imported only now; what stands behind a colon is its argument.

    Raises DeviceError when there is none of that name or it cannot be used here.
    """
    made, argument = _find(name), name.partition(":")[2]
    device: Device = made(order=True) if argument == "order" else made(*filter(None, [argument]))
    return device


def forks(name: str) -> bool:
    """Whether a process that has opened the device of a name may fork.

    Raises DeviceError when there is none of that name.
    """
    return bool(_find(name).forks)


def _find(name: str) -> Any:
    """The class of a device."""
    if name not in DEVICES:
        raise DeviceError(f"no device {name!r}; choose one of {', '.join(DEVICES)}")
    module, found = CLASSES[name.partition(":")[0]]
    return getattr(import_module(f"indexfuzz.devices.{module}"), found)


def covering(device: Device) -> tuple[Device, MaskCoverage]:
    """The same device, and what accumulates the mask coverage of the kernels that run on it.

    Raises DeviceError for a device that cannot see masks.
    """
    from indexfuzz.devices.lockstep import LockstepDevice
    from indexfuzz.lockstep import Coverage

    if not isinstance(device, LockstepDevice):
        raise DeviceError(f"device {device.name} does not see masks; mask coverage needs --device lockstep")
    coverage = Coverage()
    return replace(device, coverage=coverage), coverage
