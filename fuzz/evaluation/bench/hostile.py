"""An implementation that misbehaves, for tests and benchmarks of isolation.

`--impl module:indexfuzz.evaluation.bench.hostile` loads it.

Its gather is the reference's, but for some numbers of keys it kills its process, never ends, or prints. Nothing else
decides, so that everybody knows beforehand which case does what.
"""

import ctypes
import os
import time

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.stage_names import GATHER
from indexfuzz.implementations.base import Implementation
from indexfuzz.reference import gather as reference


def _read_address_0() -> None:
    ctypes.string_at(0)


def _print_in_c() -> None:
    os.write(1, b"from C\nand more\n")


def _spin() -> None:
    while True:
        pass


def _sleep() -> None:
    time.sleep(1e6)


def _allocate() -> None:
    held = [torch.ones(1 << 24) for _ in range(20)]
    while held:
        time.sleep(1e6)


def _exit() -> None:
    raise SystemExit(4)


MISDEEDS = {
    2: _read_address_0,
    4: lambda: os._exit(0),
    6: lambda: os._exit(3),
    8: _spin,
    10: _sleep,
    12: _allocate,
    14: lambda: print("from Python"),  # noqa: T201 - a misdeed
    16: _print_in_c,
    18: _exit,
    20: os.abort,
}
"""Number of keys -> what happens; every other number is harmless. 12 takes 1.25 GiB: allow it 1 GiB."""

SIGNATURES = {
    2: "gather/crash/SIGSEGV",
    4: "gather/crash/exit-0",
    6: "gather/crash/exit-3",
    8: "gather/hang/timeout",
    10: "gather/hang/timeout",
    12: "gather/crash/memory",
    14: "gather/stray-output/stdout",
    16: "gather/stray-output/stdout",
    18: "gather/crash/exit-4",
    20: "gather/crash/SIGABRT",
}
"""Number of keys -> the finding that follows."""


class Contract:
    """Whatever the reference can do."""

    def outside(self, stage: str, case: Case) -> str | None:  # noqa: ARG002
        """One scale per token; SHUFFLE needs whole tiles."""
        if case.model.quant_group != case.model.head_dim:
            return "several scales per token"
        shuffled = case.cache.page_layout == "shuffle"
        whole = case.cache.block_size % 16 == 0 and case.model.head_dim % 16 == 0
        return "cut tiles" if shuffled and not whole else None

    def must_reject(self, stage: str, case: Case) -> bool:  # noqa: ARG002
        """Nothing has to be rejected."""
        return False


def gather(*, k_fp8: Tensor, **rest: object) -> None:
    """Misbehave, or gather."""
    misdeed = MISDEEDS.get(k_fp8.shape[0])
    if misdeed:
        misdeed()
    reference.gather(k_fp8=k_fp8, **rest)  # type: ignore[arg-type]


implementation = Implementation("hostile", {GATHER: gather}, Contract())
