"""32-bit arithmetic that overflowed on the way to an address."""

from typing import TYPE_CHECKING

from indexfuzz.lockstep.values import Mask, Value

if TYPE_CHECKING:
    from indexfuzz.lockstep.run import Run


def check_access(run: "Run", kind: str, pointer: Value, active: Mask) -> None:
    """Report active lanes whose address has a 32-bit overflow behind it."""
    if pointer.wrapped is None:
        return
    bad = pointer.wrapped & active
    if bad.any():
        message = f"a 32-bit computation of the {kind}'s offset into {pointer.argument} overflowed; widen it to 64 bits"
        run.report("overflow", pointer, bad, message)
