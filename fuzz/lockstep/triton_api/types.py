"""The language's values and types, and one object for each type."""

from collections.abc import Callable, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import Any, Final

import torch
from triton import language
from triton.language import core
from triton.tools.tensor_descriptor import TensorDescriptor

Tensor = core.tensor

Constexpr = core.constexpr

Tuple = core.tuple

Dtype = core.dtype

Slice = core.slice

INT1: Final = core.int1

BaseValue = core.base_value

unwrap: Final[Callable[[Any], Any]] = core._unwrap_if_constexpr  # noqa: SLF001

STATIC_ASSERT: Final = core.static_assert

STATIC_PRINT: Final = core.static_print

MAP_ELEMENTWISE: Final = core.map_elementwise

DEVICE_ASSERT: Final = core.device_assert

STATIC_RANGE: Final = language.static_range

RANGE: Final = language.range

OPTIONS: Final = SimpleNamespace(
    debug=True,
    sanitize_overflow=False,
    enable_iisan=False,
    arch="lockstep",
    num_warps=4,
    supported_fp8_dtypes=("fp8e4nv", "fp8e4b8", "fp8e4b15", "fp8e5", "fp8e5b16"),
    deprecated_fp8_dot_operand_dtypes=(),
    allowed_dot_input_precisions=("tf32", "tf32x3", "ieee", "bf16x3", "bf16x6"),
    default_dot_input_precision="ieee",
    max_num_imprecise_acc_default=1 << 30,
)

_TORCH_NAMES: Final = MappingProxyType(
    {
        torch.bool: "int1",
        torch.uint8: "uint8",
        torch.uint16: "uint16",
        torch.uint32: "uint32",
        torch.uint64: "uint64",
        torch.int8: "int8",
        torch.int16: "int16",
        torch.int32: "int32",
        torch.int64: "int64",
        torch.float16: "fp16",
        torch.bfloat16: "bf16",
        torch.float32: "fp32",
        torch.float64: "fp64",
        torch.float8_e4m3fn: "fp8e4nv",
        torch.float8_e4m3fnuz: "fp8e4b8",
        torch.float8_e5m2: "fp8e5",
        torch.float8_e5m2fnuz: "fp8e5b16",
    }
)

_ANNOTATED: Final = MappingProxyType(
    {"i1": "int1", "u1": "int1"}
    | {f"i{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
    | {f"u{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)}
    | {name: name for name in ("fp16", "bf16", "fp32", "fp64")}
)

_TYPES: Final[dict[str, Any]] = {}

INTERNED: Final[dict[int, Any]] = {}
"""The one object of each type that has been seen, by its identity."""

_FACTS: Final[dict[int, tuple[Any, Any, Any]]] = {}

_new: Final = object.__new__


def intern_type(ty: Any) -> Any:
    """One object for each type, which lives as long as the process, so that its identity stands for it."""
    if INTERNED.get(id(ty)) is ty:
        return ty
    space = getattr(ty.scalar, "address_space", "")
    found = _TYPES.setdefault(f"{ty.name}@{space}", ty)
    INTERNED[id(found)] = found
    return found


def facts_of(ty: Any) -> tuple[Any, Any, Any]:
    """Shape, number of elements and element type of an interned type, made once."""
    facts = _FACTS.get(id(ty))
    if facts is None:
        made = Tensor(None, ty)
        facts = _FACTS[id(ty)] = made.shape, made.numel, made.dtype
    return facts


def fast_tensor(handle: Any, ty: Any) -> Any:
    """A tensor of an interned type, with the facts about its shape looked up instead of made."""
    made = _new(Tensor)
    made.handle = handle
    made.type = ty
    made.shape, made.numel, made.dtype = facts_of(ty)
    return made


def fields_of(values: Any) -> Sequence[str] | None:
    """The names of a tuple's items, of Python's or the language's; None where they have none."""
    names: Sequence[str] | None = values.type.fields if isinstance(values, Tuple) else getattr(values, "_fields", None)
    return names


def named_tuple(values: Sequence[Any], fields: Sequence[str] | None) -> Any:
    """A tuple of the language, whose items have names where there are fields."""
    made = Tuple(values)
    if fields is not None:
        made.type = core.tuple_type(made.type.types, list(fields))
    return made


def dtype_of(tensor_dtype: Any) -> Any:
    """Triton's name for a torch (or Triton) element type; ValueError where it has none."""
    if isinstance(tensor_dtype, Dtype):
        return tensor_dtype
    name = _TORCH_NAMES.get(tensor_dtype)
    if name is None:
        raise ValueError(f"Triton has no element type for {tensor_dtype}")
    return Dtype(name)


def dtype_of_annotation(annotation: str) -> Any | None:
    """The scalar type that a parameter's annotation asks for, None where it asks for none."""
    name = _ANNOTATED.get(annotation)
    return None if name is None else Dtype(name)


def pointer_dtype(element: Any, *, const: bool) -> Any:
    """The type of a pointer argument."""
    return core.pointer_type(element, const=const)


def host_descriptor(base: Any, shape: Sequence[Any], strides: Sequence[Any], block: Sequence[int], dtype: Any) -> Any:
    """A descriptor that the launcher made, as the kernel sees it: its handle, shape and strides as tensors."""
    return core.tensor_descriptor(base, list(shape), list(strides), core.block_type(dtype, list(block)))


def is_host_descriptor(value: Any) -> bool:
    """Whether an argument is a tensor descriptor that the launcher made."""
    return isinstance(value, TensorDescriptor)
