"""An implementation for the tests: gather counts for long, or never ends where there is one key alone.

It prints as it goes, so that a test knows when it is under way.
"""

import triton
import triton.language as tl

from indexfuzz.core.contract import Unlimited
from indexfuzz.implementations.base import Implementation


@triton.jit
def _count(out, rounds):
    for i in range(rounds):
        tl.device_print("round", i)
        tl.store(out, i)


@triton.jit
def _spin(out, rounds):
    while rounds > 0:
        tl.device_print("rounds", rounds)
        tl.store(out, rounds)


def gather(*, k_scale, **_):
    kernel = _spin if k_scale.shape[0] == 1 else _count
    kernel[(1,)](k_scale, 1 << 23)


implementation = Implementation("slow", {"gather": gather}, Unlimited())
