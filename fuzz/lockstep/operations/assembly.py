"""tl.inline_asm_elementwise of one PTX instruction: one that the builder has an operation for, E2M1, or a barrier."""

import re
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Final

import numpy as np

from indexfuzz.lockstep.arithmetic.e2m1 import encode_e2m1
from indexfuzz.lockstep.operations.casts import CastOps
from indexfuzz.lockstep.operations.comparisons import ComparisonOps
from indexfuzz.lockstep.operations.floats import FloatOps
from indexfuzz.lockstep.values.dtypes import FP32, I32, BlockType, ScalarType, poison
from indexfuzz.lockstep.values.value import Value

_INSTRUCTION: Final = re.compile(r"([a-z][A-Za-z0-9_.]*)\s+(\$\d+(?:\s*,\s*\$\d+)*)\s*;?")

_FP32: Final = {
    "ex2.approx.f32": "create_exp2",
    "ex2.approx.ftz.f32": "create_exp2",
    "lg2.approx.f32": "create_log2",
    "lg2.approx.ftz.f32": "create_log2",
    "tanh.approx.f32": "create_tanh",
    "sin.approx.f32": "create_sin",
    "sin.approx.ftz.f32": "create_sin",
    "cos.approx.f32": "create_cos",
    "cos.approx.ftz.f32": "create_cos",
    "sqrt.rn.f32": "create_precise_sqrt",
    "sqrt.approx.ftz.f32": "create_sqrt",
    "rsqrt.approx.ftz.f32": "create_rsqrt",
    "rcp.rn.f32": "create_reciprocal",
    "rcp.approx.f32": "create_reciprocal",
    "rcp.approx.ftz.f32": "create_reciprocal",
    "add.f32": "create_fadd",
    "add.rn.f32": "create_fadd",
    "sub.f32": "create_fsub",
    "sub.rn.f32": "create_fsub",
    "mul.f32": "create_fmul",
    "mul.rn.f32": "create_fmul",
    "div.rn.f32": "create_fdiv",
    "fma.rn.f32": "create_fma",
    "max.f32": "create_maxnumf",
    "min.f32": "create_minnumf",
    "max.NaN.f32": "create_maximumf",
    "min.NaN.f32": "create_minimumf",
}
"""PTX instructions on fp32 and the builder's operations; what is `approx` there is as precise here as tl's own."""

_MOVES: Final = {f"mov.{kind}{bits}": bits for bits in (16, 32, 64) for kind in "busf" if (kind, bits) != ("f", 16)}
"""PTX instructions that change nothing, and the bits of their register."""

_E2M1_PAIR: Final = re.compile(
    r"\{ \.reg \.b8 (\w+); cvt\.rn\.satfinite\.e2m1x2\.f32 \1, \$1, \$2; cvt\.u32\.u8 \$0, \1; \}"
)
"""Two fp32 as E2M1 in a byte, the first in its high half: a register of 8 bits is no operand, so it takes a block."""

_BARRIERS: Final = ("bar.sync 0;", "bar.sync 0", "barrier.sync 0;", "barrier.sync 0")
"""All threads of a program wait for each other; nothing is written to $0."""


class AssemblyOps(FloatOps, ComparisonOps, CastOps):
    """create_inline_asm."""

    def create_inline_asm(
        self,
        asm: str,
        constraints: str,
        values: Sequence[Value],
        types: Sequence[ScalarType | BlockType],
        _is_pure: bool,
        pack: int,
    ) -> "_Results":
        """What one known instruction makes of $1, $2 .. in $0, each in a register of its own; nothing of a barrier."""
        if asm.strip() in _BARRIERS and not values and len(types) == 1 and pack == 1:
            self.run.barriers += 1
            return _Results(_nothing(types[0]))
        words = " ".join(asm.split())
        if _E2M1_PAIR.fullmatch(words) and constraints.replace(" ", "") == "=r,f,f" and types[0].scalar is I32:
            return _Results(self._pack_e2m1(*values))
        name, operands = _parse(asm)
        in_order = operands == [f"${i}" for i in range(len(values) + 1)]
        registers = constraints.replace(" ", "").split(",")
        if len(types) == 1 and pack == 1 and in_order and len(registers) == len(values) + 1:
            made = self._perform(name, values, types[0].scalar)
            if made is not None:
                return _Results(made)
        raise self.unsupported(f"tl.inline_asm_elementwise of {words!r}")

    def _pack_e2m1(self, high: Value, low: Value) -> Value:
        data = encode_e2m1(low.data) | encode_e2m1(high.data) << np.uint8(4)
        return self._join(high, low, data.astype(I32.container), I32)

    def create_reciprocal(self, a: Value) -> Value:
        """1 / a, correctly rounded."""
        return self.create_fdiv(Value(np.ones((1,) * a.data.ndim, np.float32), FP32, a.shape), a)

    def _perform(self, name: str, values: Sequence[Value], ty: ScalarType) -> Value | None:
        bits = _MOVES.get(name)
        if bits is not None and len(values) == 1 and values[0].ty.bits == ty.bits == bits:
            return self.create_bitcast(values[0], ty)
        if name not in _FP32 or ty is not FP32 or any(v.ty is not FP32 for v in values):
            return None
        operation: Callable[..., Value] = getattr(self, _FP32[name])
        return operation(*values) if len(values) == len(signature(operation).parameters) else None


class _Results:
    """What the language asks a call for: its results by number."""

    def __init__(self, value: Value) -> None:
        self._value = value

    def get_result(self, number: int) -> Value:
        """The only one."""
        return (self._value,)[number]


def _nothing(ty: ScalarType | BlockType) -> Value:
    """A register that nobody wrote to."""
    shape = tuple(ty.shape) if isinstance(ty, BlockType) else ()
    lanes = (1,) * (1 + len(shape))
    return Value(poison(ty.scalar, lanes), ty.scalar, shape, np.ones(lanes, np.bool_))


def _parse(asm: str) -> tuple[str, list[str]]:
    """An instruction's name and operands; empty where the assembly is something else."""
    found = _INSTRUCTION.fullmatch(asm.strip())
    return (found[1], [word.strip() for word in found[2].split(",")]) if found else ("", [])
