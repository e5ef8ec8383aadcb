"""One thread for each process: cases are small, and as many processes as there are cores run them.

A BLAS library takes a thread for each core for every product of some size, and threads that wait for each other spin.
"""

from collections.abc import MutableMapping

BLAS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What NumPy and PyTorch read when they are imported."""


def take_one(environment: MutableMapping[str, str]) -> None:
    """Ask for one thread, for a process that has imported neither yet; what somebody has asked for stays."""
    for name in BLAS:
        environment.setdefault(name, "1")
