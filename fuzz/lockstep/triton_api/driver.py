"""A driver for Triton where there is no GPU: it says what an H100 says of itself, and can load and measure nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final

import torch
import triton.testing
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

H100: Final = {
    "max_shared_mem": 232448,
    "max_num_regs": 65536,
    "multiprocessor_count": 132,
    "warpSize": 32,
    "sm_clock_rate": 1980000,
    "mem_clock_rate": 2619000,
    "mem_bus_width": 5120,
}
"""What Triton asks of a device: bytes of shared memory of a block, registers, kHz, bits."""

CAPABILITY: Final = (9, 0)


class LockstepDriver:
    """What Triton and kernel libraries ask of a driver before they launch anything."""

    def __init__(self) -> None:
        self.utils = SimpleNamespace(get_device_properties=lambda _device: dict(H100))

    @staticmethod
    def is_active() -> bool:
        """It always is."""
        return True

    def get_current_target(self) -> Any:
        """The GPU whose kernels would be compiled."""
        major, minor = CAPABILITY
        return GPUTarget("cuda", 10 * major + minor, H100["warpSize"])

    def get_active_torch_device(self) -> torch.device:
        """Where tensors are."""
        return torch.device("cpu")

    def get_current_device(self) -> int:
        """The only one."""
        return 0

    def set_current_device(self, device: int) -> None:
        """Nothing: there is one."""

    def get_current_stream(self, _device: int | None = None) -> int:
        """The only one."""
        return 0

    def get_device_capability(self, _device: int | None = None) -> tuple[int, int]:
        """Compute capability."""
        return CAPABILITY

    def get_empty_cache_for_benchmark(self) -> Any:
        """What is written to between measurements, so that the caches of a GPU forget: nothing here."""
        return torch.empty(0)

    def clear_cache(self, cache: Any) -> None:
        """Nothing: there is none."""

    def get_benchmarker(self) -> Any:
        """Triton's own way to measure."""
        return triton.testing.do_bench

    def get_device_interface(self) -> Any:
        """The module of torch for the device."""
        return torch.cuda

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"kernels run in lockstep, on the CPU, where Triton's driver has no {name}")


def is_interpreting() -> bool:
    """Whether jit functions made now run in Triton's own interpreter."""
    return bool(knobs.runtime.interpret)


@contextmanager
def stand_in_driver() -> Iterator[None]:
    """Let Triton have a driver; the one that was active, if any, is back afterwards."""
    before = getattr(driver, "_active", None)
    driver.set_active(LockstepDriver())
    try:
        yield
    finally:
        driver.set_active(before)
