"""The arithmetic contract of compiled kernels, read from their PTX.

What tl.dot, a division or a conversion becomes depends on the tile, the target and the compiler, so it is read from
what was compiled and never concluded from a version. What is not recognised counts as the weakest that there is.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from indexfuzz.reference.arithmetic import DOT_UNITS, PRESETS, Arithmetic

_FP8 = r"\.e[45]m[23]\.e[45]m[23]"
_HALF = r"\.(?:f16\.f16|bf16\.bf16)"

UNITS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "8": (
        (rf"mma\.sync\.\S*m16n8k32\S*{_FP8}", "sm89-fp8"),
        (rf"mma\.sync\.\S*m16n8k16\S*{_HALF}", "sm80-f16"),
    ),
    "9": (
        (rf"wgmma\.mma_async\.\S*k32\.f32{_FP8}", "sm90-qgmma"),
        (rf"wgmma\.mma_async\.\S*k16\.f32{_HALF}", "sm90-hmma"),
        (rf"mma\.sync\.\S*m16n8k16\S*{_HALF}", "sm90-hmma"),
    ),
    "10": ((r"tcgen05\.mma\S*kind::f8f6f4", "sm100-fp8"),),
}
"""Major compute capability -> pattern of an instruction, and the matrix unit (DOT_UNITS) that executes it."""

DIVISIONS: Mapping[str, Literal["unknown", "full"]] = {"approx": "unknown", "full": "full"}
"""Instruction -> the contract of quotients, the weakest first. Where there is only div.rn, or a multiplication by a
reciprocal and no division at all, quotients are "portable"."""

MATRIX = re.compile(r"^\s*(?:@\S+\s+)?((?:wgmma\.mma_async|mma\.sync|mma\.sp|tcgen05\.mma)\S*)", re.MULTILINE)
"""A matrix instruction of PTX; the group is its opcode."""

_TARGET = re.compile(r"^\s*\.target\s+sm_(\d+)\d", re.MULTILINE)
_DIVISION = re.compile(r"\bdiv\.(full|rn|approx)\S*\s+\S+,\s*\S+,\s*([%\w]+)")
_CONSTANT = re.compile(r"\bmov\.[bf]32\s+(%\w+),\s*0f[0-9A-Fa-f]{8}")
_FAST_LOG2 = re.compile(r"\blg2\.approx")
_THROUGH_F16 = re.compile(r"\bcvt\.rn\.satfinite\.e4m3x2\.f16x2")


@dataclass(frozen=True)
class Compiled:
    """What the PTX of one kernel says: units of its dots, kinds of its divisions by a value and by a constant."""

    units: frozenset[str] = frozenset()
    divisions: frozenset[str] = frozenset()
    constant_divisions: frozenset[str] = frozenset()
    fast_log2: bool = False
    through_f16: bool = False


def read(ptx: str) -> Compiled:
    """Read the PTX of one kernel. A matrix instruction that no unit is known for gives the unit "unknown"."""
    target = _TARGET.search(ptx)
    known = UNITS.get(target.group(1), ()) if target else ()
    divisions, constants = _DIVISION.findall(ptx), frozenset(_CONSTANT.findall(ptx))
    return Compiled(
        frozenset(_unit(opcode, known) for opcode in set(MATRIX.findall(ptx))),
        frozenset(kind for kind, by in divisions if not _is_constant(by, constants)),
        frozenset(kind for kind, by in divisions if _is_constant(by, constants)),
        fast_log2=bool(_FAST_LOG2.search(ptx)),
        through_f16=bool(_THROUGH_F16.search(ptx)),
    )


def _is_constant(operand: str, registers: frozenset[str]) -> bool:
    return operand.startswith("0f") or operand in registers


def _unit(opcode: str, known: Iterable[tuple[str, str]]) -> str:
    return next((unit for pattern, unit in known if re.match(pattern, opcode)), "unknown")


def unit(kernels: Iterable[Compiled]) -> str:
    """The matrix unit, a key of DOT_UNITS, that some kernels use; of several, the one that may err most.

    Kernels without a matrix instruction evaluate their dots, if any, by fp32 operations: "ieee". "unknown" for none.
    """
    every = tuple(kernels)
    used = {name for kernel in every for name in kernel.units} or {"ieee" if every else "unknown"}
    return max(sorted(used), key=lambda name: DOT_UNITS[name].relative_error(128))


def arithmetic(kernels: Iterable[Compiled]) -> Arithmetic:
    """The weakest contract that covers some kernels which together make one stage; PRESETS["unknown"] for none."""
    every = tuple(kernels)
    if not every:
        return PRESETS["unknown"]
    by_value = {kind for kernel in every for kind in kernel.divisions}
    by_constant = {kind for kernel in every for kind in kernel.constant_divisions}
    fast_log2 = any(kernel.fast_log2 for kernel in every)
    return Arithmetic(
        DOT_UNITS[unit(every)],
        division=next((name for kind, name in DIVISIONS.items() if kind in by_value), "portable"),
        # amax is divided by a constant, which ptxas turns into a multiplication by its rounded reciprocal (FMUL in the
        # SASS of the built-in kernels), or else by a value like everything else.
        amax_division="portable" if by_constant or by_value <= {"rn"} else "unknown",
        conversion="f16-then-rne" if any(kernel.through_f16 for kernel in every) else "rne",
        log2_ulps=2 if fast_log2 else 0,
        log2_exact_at_powers=not fast_log2,
    )
