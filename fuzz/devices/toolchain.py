"""What compiled kernels for a GPU, and what runs them there: what a bug of theirs is reported with."""

import re
from pathlib import Path

import triton

DRIVER = Path("/proc/driver/nvidia/version")
"""What the driver of NVIDIA's cards says of itself."""


def describe_toolchain() -> str:
    """The versions of Triton, of its ptxas, and of the driver where there is one."""
    ptxas = triton.knobs.nvidia.ptxas
    found = [f"Triton {triton.__version__}", *([f"ptxas {ptxas.version}"] if ptxas else [])]
    driver = re.search(r"\b\d+\.\d+(\.\d+)*\b", DRIVER.read_text()) if DRIVER.exists() else None
    return ", ".join([*found, *([f"driver {driver[0]}"] if driver else [])])
