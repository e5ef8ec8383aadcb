"""A CPU executor for Triton kernels that runs all programs of a launch at once."""

from indexfuzz.lockstep.checkers import ALL_CHECKERS
from indexfuzz.lockstep.coverage import Coverage
from indexfuzz.lockstep.machine import Lockstep
from indexfuzz.lockstep.violations import KernelError, LockstepError, UnsupportedFeature, Violation

__all__ = [
    "ALL_CHECKERS",
    "Coverage",
    "KernelError",
    "Lockstep",
    "LockstepError",
    "UnsupportedFeature",
    "Violation",
]
