"""Where kernels run: `open_device` by name; lockstep imports no GPU runtime, cuda no executor."""

from indexfuzz.devices.base import Device, DeviceError

DEVICES = ("lockstep", "interpreter", "cuda")


def open_device(name: str) -> Device:
    """The device of a name, imported only now.

    Raises DeviceError when there is none of that name or it cannot be used here.
    """
    if name == "lockstep":
        from indexfuzz.devices.lockstep import LockstepDevice  # noqa: PLC0415

        return LockstepDevice()
    if name in DEVICES:
        from indexfuzz.devices.plain import CudaDevice, InterpreterDevice  # noqa: PLC0415

        return CudaDevice() if name == "cuda" else InterpreterDevice()
    raise DeviceError(f"no device {name!r}; choose one of {', '.join(DEVICES)}")
