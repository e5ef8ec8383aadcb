"""A CPU executor for Triton kernels that runs all programs of a launch at once."""

from indexfuzz.lockstep.executor import Lockstep, count_ordered, recall_launches, skip_launches, watch_ends
from indexfuzz.lockstep.tracking.checks import ALL_CHECKERS, OPTIONAL_CHECKERS
from indexfuzz.lockstep.tracking.coverage import Coverage
from indexfuzz.lockstep.tracking.rounds import count_rounds
from indexfuzz.lockstep.tracking.violations import KernelError, LockstepError, UnsupportedFeature, Violation

__all__ = [
    "ALL_CHECKERS",
    "OPTIONAL_CHECKERS",
    "Coverage",
    "KernelError",
    "Lockstep",
    "LockstepError",
    "UnsupportedFeature",
    "Violation",
    "count_ordered",
    "count_rounds",
    "recall_launches",
    "skip_launches",
    "watch_ends",
]
