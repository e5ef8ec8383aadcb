"""Hints, assertions, barriers and output: what a kernel says beside what it computes."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from indexfuzz.lockstep.checkers.promises import check_assumption, check_promise
from indexfuzz.lockstep.operations.context import Context
from indexfuzz.lockstep.tracking.attribution import blame_kernel
from indexfuzz.lockstep.tracking.violations import KernelError
from indexfuzz.lockstep.values.value import Value


class HintOps(Context):
    """Promises to the compiler, which are checked, and messages to the user."""

    def promise(self, name: str, value: Value, values: Sequence[int]) -> None:
        """A hint about a value; it has to be true."""
        if self.run.checks.promises:
            check_promise(self.run, name, value, [int(v) for v in values])

    def create_assume(self, condition: Value) -> None:
        if self.run.checks.promises:
            check_assumption(self.run, condition)

    def create_assert(self, condition: Value, message: str, *_: Any) -> None:
        failed = ~condition.data
        if condition.undefined is not None:
            failed &= ~condition.undefined
        if failed.any():
            index = np.unravel_index(int(np.argmax(failed)), failed.shape)
            program = self.run.launch.coordinates(int(self.run.programs[int(index[0])]))
            message = f"device_assert failed in program {program}: {message}"
            raise blame_kernel(AssertionError(message), KernelError)

    def create_barrier(self) -> None:
        """Lanes are in step already; only the checker of their order cares."""
        self.run.barriers += 1

    create_grid_dependency_wait = create_barrier
    create_grid_dependency_launch_dependents = create_barrier

    def create_print(self, prefix: str, hexadecimal: bool, values: Sequence[Value], *_: Any) -> None:
        """tl.device_print: one line for each value, all programs in it."""
        for value in values:
            data = value.full(self.run.count)
            shown = np.array2string(data, formatter={"all": _hexadecimal}) if hexadecimal else data
            sys.stdout.write(f"{prefix}{shown}\n")
        if not values:
            sys.stdout.write(f"{prefix}\n")


def _hexadecimal(number: Any) -> str:
    """A number as C's %a and %x write it, an integer with all digits of its width."""
    if isinstance(number, np.floating):
        return float(number).hex()
    digits = 2 * number.dtype.itemsize
    return f"0x{int(number) & ((1 << 4 * digits) - 1):0{digits}x}"
