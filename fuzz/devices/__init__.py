"""Where kernels run: `open_device` by name; lockstep imports no GPU runtime, cuda no executor."""

from dataclasses import replace

from indexfuzz.devices.base import Device, DeviceError, MaskCoverage

DEVICES = ("lockstep", "lockstep:sm90", "lockstep:cdna3", "interpreter", "cuda")
"""What stands behind lockstep's colon is the matrix unit whose bits tl.dot has; IEEE arithmetic without one."""


def open_device(name: str) -> Device:
    """The device of a name, imported only now.

    Raises DeviceError when there is none of that name or it cannot be used here.
    """
    if name not in DEVICES:
        raise DeviceError(f"no device {name!r}; choose one of {', '.join(DEVICES)}")
    if name == "cuda":
        from indexfuzz.devices.cuda import CudaDevice  # noqa: PLC0415

        return CudaDevice()
    if name == "interpreter":
        from indexfuzz.devices.interpreter import InterpreterDevice  # noqa: PLC0415

        return InterpreterDevice()
    from indexfuzz.devices.lockstep import LockstepDevice  # noqa: PLC0415

    return LockstepDevice(name.partition(":")[2] or "ieee")


def covering(device: Device) -> tuple[Device, MaskCoverage]:
    """The same device, and what accumulates the mask coverage of the kernels that run on it.

    Raises DeviceError for a device that cannot see masks.
    """
    from indexfuzz.devices.lockstep import LockstepDevice  # noqa: PLC0415
    from indexfuzz.lockstep import Coverage  # noqa: PLC0415

    if not isinstance(device, LockstepDevice):
        raise DeviceError(f"device {device.name} does not see masks; mask coverage needs --device lockstep")
    coverage = Coverage()
    return replace(device, coverage=coverage), coverage
