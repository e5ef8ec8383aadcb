"""What an implementation's arithmetic may do: the parameters that the legal sets and bounds are computed from."""

from dataclasses import dataclass, field
from math import ceil
from typing import Literal

from indexfuzz.reference.fp8 import AMAX_FLOOR

U = 2.0**-24
"""Unit roundoff of fp32."""


@dataclass(frozen=True)
class DotUnit:
    """How q . k over K dims is evaluated, as far as its error is known.

    "rounding": fp32 products and sums, each rounded, in any order. "truncating": ``group`` products at a time are cut
    to ``fraction_bits`` below the largest exponent among them and the accumulator, added exactly, and the sum cut to
    ``output_bits``; both cuts toward zero (NVIDIA's matrix units). "flooring": as CDNA3 does it, products cut toward
    zero, partial sums floored, the accumulator rounded to fp32.
    """

    kind: Literal["rounding", "truncating", "flooring"]
    group: int = 1
    fraction_bits: int = 24
    output_bits: int = 23
    in_order: bool = False
    """Whether groups are consecutive dims, first to last, carried through one accumulator (tier T2 needs it)."""
    promoted: bool = False
    """Whether each group starts from zero and is joined to the sum by an fp32 addition."""

    @property
    def exact_bits(self) -> int:
        """A dot of multiples of g whose magnitudes sum to less than 2**exact_bits * g has no error."""
        return min(self.fraction_bits, self.output_bits) + 1 if self.kind == "truncating" else 24

    def relative_error(self, head_dim: int) -> float:
        """Largest |error| of a dot in any order, relative to the sum of magnitudes of its products.

        One step adds at most c_step * (S + error), so that error <= c/(1 - c) * S with c the sum over the steps.
        Operands below the normal range count with the smallest normal magnitude in S: the units align by clamped
        exponents.
        """
        steps = ceil(head_dim / self.group)
        if self.kind == "rounding":
            c = head_dim * U
        elif self.kind == "truncating":
            c = (head_dim + steps) * 2.0**-self.fraction_bits + steps * 2.0**-self.output_bits
        else:
            c = steps * ((self.group + 2) * 2.0**-24 + 2.0**-31 + 2 * 2.0**-24 + 2.0**-24)
        if self.promoted:
            c += steps * U
        return c / (1 - c)


DOT_UNITS: dict[str, DotUnit] = {
    "ieee": DotUnit("rounding"),
    "sm90-qgmma": DotUnit("truncating", 32, 13, 13, in_order=True),
    "sm90-qgmma-promoted": DotUnit("truncating", 32, 13, 13, in_order=True, promoted=True),
    "sm90-hmma": DotUnit("truncating", 16, 25, 23),
    "sm89-fp8": DotUnit("truncating", 16, 13, 13),
    "sm80-f16": DotUnit("truncating", 8, 24, 23),
    "sm100-fp8": DotUnit("truncating", 32, 25, 23),
    "cdna3-fp8": DotUnit("flooring", 16),
    "cdna3-f16": DotUnit("flooring", 8),
    "unknown": DotUnit("truncating", 8, 22, 22),
}
"""Matrix units by name. "unknown" is an envelope for units without a public model; a verdict with it is not a proof."""


@dataclass(frozen=True)
class Arithmetic:
    """The arithmetic contract of an implementation. The default admits every correct IEEE evaluation and no other."""

    dot: DotUnit = field(default_factory=lambda: DOT_UNITS["ieee"])

    division: Literal["ieee", "reciprocal", "portable", "full", "unknown"] = "portable"
    """x / s before conversion: correctly rounded, x * fl(1/s), either of the two, within 3u (div.full), within 4u."""

    amax_division: Literal["ieee", "reciprocal", "portable", "unknown"] = "portable"
    """amax / C: correctly rounded, amax * fl(1/C) (as ptxas does it), either of the two, within 3u."""

    largest: float | None = None
    """C, the magnitude that a row's largest element is scaled to, where it is not 448 (e4m3fn) or 224 (e4m3fnuz)."""

    amax_floor: float = AMAX_FLOOR
    """The smallest amax that a scale is made of: what smaller rows count as."""

    conversion: Literal["rne", "f16-then-rne"] = "rne"
    """fp32 to FP8: rounded once, or cut to fp16 first (sm_89). What an overflow gives need not be said: no legal scale
    takes a finite element beyond C (1 + 4u), which rounds to C."""

    log2_ulps: int = 0
    """Error of log2 in ulps, over correct rounding, in the computation of a UE8M0 scale."""

    log2_exact_at_powers: bool = True
    """Whether log2 is exact at powers of two; where it is not, the scale above an exact power of two is legal, too."""

    weight_rounding: float = 0.0
    """Relative error of the head weights as used: 0 for fp32, 2**-8 where the contract declares bf16."""

    score_rounding: float = 0.0
    """Relative error of storing a dot before ReLU and weights: 0 for fp32, 2**-8 where the contract declares bf16."""

    extra_roundings: int = 0
    """fp32 multiplications per head beyond weight and key scale, such as a softmax scale that is not folded in."""

    @property
    def quotient_error(self) -> float:
        """Largest relative error of x / s where it is an interval; 0 where the legal quotients are an explicit set."""
        return {"full": 3 * U * (1 + U), "unknown": 4 * U}.get(self.division, 0.0)


PORTABLE = Arithmetic()
"""Any correct compiler, any order of summation, fp32."""

PRESETS: dict[str, Arithmetic] = {
    "portable": PORTABLE,
    "ieee": Arithmetic(division="ieee", amax_division="ieee"),
    "sm90": Arithmetic(DOT_UNITS["sm90-qgmma"], division="full", amax_division="reciprocal"),
    "sm90-hmma": Arithmetic(DOT_UNITS["sm90-hmma"], division="full", amax_division="reciprocal"),
    "sm89": Arithmetic(DOT_UNITS["sm89-fp8"], division="full", amax_division="reciprocal", conversion="f16-then-rne"),
    "cdna3": Arithmetic(
        DOT_UNITS["cdna3-fp8"], division="ieee", amax_division="ieee", log2_ulps=1, log2_exact_at_powers=False
    ),
    "cdna3-f16": Arithmetic(
        DOT_UNITS["cdna3-f16"], division="ieee", amax_division="ieee", log2_ulps=1, log2_exact_at_powers=False
    ),
    "unknown": Arithmetic(
        DOT_UNITS["unknown"], division="unknown", amax_division="unknown", log2_ulps=1, log2_exact_at_powers=False
    ),
}
"""Whole contracts by target."""
