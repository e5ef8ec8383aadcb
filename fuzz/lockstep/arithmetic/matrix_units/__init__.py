"""Arithmetic models of matrix units: what `tl.dot` computes, bit for bit, chosen by name."""

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from indexfuzz.lockstep.arithmetic.matrix_units.amd import cdna3
from indexfuzz.lockstep.arithmetic.matrix_units.ieee import ieee
from indexfuzz.lockstep.arithmetic.matrix_units.nvidia import sm90

__all__ = ["MODELS", "DotModel"]


class DotModel(Protocol):
    """One way of computing `acc + a @ b` for every program of a launch."""

    def __call__(
        self,
        a: NDArray[np.float32],
        b: NDArray[np.float32],
        acc: NDArray[np.float32],
        a_format: str,
        b_format: str,
        max_num_imprecise_acc: int | None = None,
    ) -> NDArray[np.float32]:
        """Return `acc + a @ b`, float32 of shape (P, M, N).

        `a` (P, M, K) and `b` (P, K, N) hold the exact values of their formats ("e4m3fn", "e4m3fnuz", "e4m3b11fnuz",
        "e5m2", "e5m2fnuz", "fp16", "bf16", "fp32"); `acc` is (P, M, N), all zeros for a dot without accumulator. The
        program axis may be 1 in any of them. `max_num_imprecise_acc` is `tl.dot`'s argument, None where the kernel
        leaves it out. Raises ValueError for a format or K that the unit does not have.
        """
        ...


MODELS: Final[dict[str, DotModel]] = {"ieee": ieee, "sm90": sm90, "cdna3": cdna3}
"""Name to model."""
