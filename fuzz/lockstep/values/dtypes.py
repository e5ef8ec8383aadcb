"""The types that a kernel's values have below the language: signless integers, floats, pointers and blocks.

Like LLVM's, an integer type has a width and no sign; the operation says how it reads the bits.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False, slots=True)
class ScalarType:
    """One element: the numpy type that holds it, and the one that it has in memory.

    bf16 lives in fp32 (always a bf16 value), FP8 as its code, a bool as numpy's. A pointer lives as an int64 byte
    offset from the start of its storage. scalar is the type itself, as a block type answers with its element's;
    itemsize counts bytes in memory, minimum and maximum are those of a signed reading.
    """

    name: str
    kind: str
    bits: int
    container: np.dtype[Any]
    memory: np.dtype[Any]
    unsigned: np.dtype[Any]
    element: "ScalarType | BlockType | None" = None
    scalar: "ScalarType" = field(init=False, repr=False)
    itemsize: int = field(init=False)
    minimum: int = field(init=False)
    maximum: int = field(init=False)

    def __post_init__(self) -> None:
        known = {
            "scalar": self,
            "itemsize": self.memory.itemsize,
            "minimum": -(1 << self.bits >> 1),
            "maximum": (1 << self.bits >> 1) - 1,
        }
        for name, value in known.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False, slots=True)
class BlockType:
    """A block of scalars; axes is the index that gives an array of scalars, one a program, the axes of the block."""

    scalar: ScalarType
    shape: tuple[int, ...]
    name: str = field(default="block")
    axes: tuple[slice | None, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", (slice(None), *(None,) * len(self.shape)))


def _integer(bits: int) -> ScalarType:
    signed = np.dtype(f"int{bits}")
    return ScalarType(f"i{bits}", "int", bits, signed, signed, np.dtype(f"uint{bits}"))


def _fp8(name: str) -> ScalarType:
    code = np.dtype(np.uint8)
    return ScalarType(name, "fp8", 8, code, code, code)


def _float(name: str, container: str, memory: str) -> ScalarType:
    stored = np.dtype(memory)
    return ScalarType(
        name, "float", stored.itemsize * 8, np.dtype(container), stored, np.dtype(f"uint{stored.itemsize * 8}")
    )


VOID: Final = ScalarType("void", "void", 0, np.dtype(np.uint8), np.dtype(np.uint8), np.dtype(np.uint8))
I1: Final = ScalarType("i1", "int", 1, np.dtype(np.bool_), np.dtype(np.uint8), np.dtype(np.bool_))
I8: Final = _integer(8)
I16: Final = _integer(16)
I32: Final = _integer(32)
I64: Final = _integer(64)
FP16: Final = _float("fp16", "float16", "float16")
BF16: Final = _float("bf16", "float32", "uint16")
FP32: Final = _float("fp32", "float32", "float32")
FP64: Final = _float("fp64", "float64", "float64")
E4M3FN: Final = _fp8("e4m3fn")
E4M3FNUZ: Final = _fp8("e4m3fnuz")
E5M2: Final = _fp8("e5m2")
E5M2FNUZ: Final = _fp8("e5m2fnuz")
E4M3B11FNUZ: Final = _fp8("e4m3b11fnuz")

_OFFSET: Final = np.dtype(np.int64)


@cache
def pointer_to(element: ScalarType | BlockType) -> ScalarType:
    """The type of a pointer to `element`."""
    return ScalarType(f"*{element.name}", "pointer", 64, _OFFSET, _OFFSET, np.dtype(np.uint64), element)


@cache
def block_of(scalar: ScalarType, shape: tuple[int, ...]) -> BlockType:
    """The type of a block of `shape`."""
    return BlockType(scalar, shape)


def poison(ty: ScalarType, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """Values that nothing defines: NaN for floats, an implausible bit pattern for the rest."""
    if ty.kind == "float":
        return np.full(shape, np.nan, ty.container)
    if ty.kind == "fp8":
        return np.full(shape, 0x7F, ty.container)
    if ty.bits == 1:
        return np.zeros(shape, ty.container)
    return np.full(shape, 0x5A5A5A5A5A5A5A5A & ty.maximum, ty.container)
