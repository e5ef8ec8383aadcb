"""An implementation for the tests: gather ends its process, rope is wrong, and its contract fails on seed 1."""

import os

from indexfuzz.core.contract import Unlimited
from indexfuzz.implementations.base import Implementation
from indexfuzz.reference import rope as reference


class Contract(Unlimited):
    def outside(self, stage, case):
        if case.values.seed == 1:
            raise ValueError("nothing is narrow enough")


def rope(q, k, positions, cos_sin_cache, *, rope_dim, style, placement, mode):
    turned, key = reference.rope(q, k, positions, cos_sin_cache, rope_dim=rope_dim, style=style, placement=placement)
    return turned + 1, key


implementation = Implementation("two", {"gather": lambda **_: os._exit(7), "rope": rope}, Contract())
