"""32-bit arithmetic that overflowed on the way to an address."""

from indexfuzz.lockstep.tracking.run import Run
from indexfuzz.lockstep.values.arrays import Mask
from indexfuzz.lockstep.values.value import Value


def check_overflow(run: Run, kind: str, pointer: Value, active: Mask) -> None:
    """Report active lanes whose address has a 32-bit overflow behind it."""
    if pointer.wrapped is None:
        return
    bad = pointer.wrapped & active
    if bad.any():
        message = f"a 32-bit computation of the {kind}'s offset into {pointer.argument} overflowed; widen it to 64 bits"
        run.report("overflow", pointer, bad, message)
