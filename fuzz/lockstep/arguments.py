"""What a kernel's arguments become: pointers, scalars and constexprs, by the rules of a Triton launch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import torch

from indexfuzz.lockstep.tracking.attribution import blame_kernel, blaming_kernel
from indexfuzz.lockstep.tracking.violations import UnsupportedFeature
from indexfuzz.lockstep.triton_api.functions import is_jit
from indexfuzz.lockstep.triton_api.types import (
    Constexpr,
    Dtype,
    dtype_of,
    dtype_of_annotation,
    fast_tensor,
    fields_of,
    host_descriptor,
    intern_type,
    is_host_descriptor,
    named_tuple,
    pointer_dtype,
)
from indexfuzz.lockstep.values.arrays import Array
from indexfuzz.lockstep.values.buffers import Buffer
from indexfuzz.lockstep.values.dtypes import ScalarType
from indexfuzz.lockstep.values.memory import Allocation, storage_bytes
from indexfuzz.lockstep.values.origins import Origin
from indexfuzz.lockstep.values.value import Value


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a kernel.

    constexpr and const say what it is declared as, dtype is the scalar type that its annotation asks for; specialised:
    an argument of 1 is known while compiling.
    """

    name: str
    constexpr: bool
    const: bool
    specialised: bool
    dtype: Any | None


def parameters(kernel: Any) -> tuple[Parameter, ...]:
    """The parameters of a jit function."""
    return tuple(
        Parameter(p.name, p.is_constexpr, p.is_const, not p.do_not_specialize, dtype_of_annotation(p.annotation_type))
        for p in kernel.params
    )


_MOST_ALIGNED: Final = 16
_POINTERS: Final[dict[tuple[Any, bool], tuple[Any, ScalarType]]] = {}
"""The types of pointers to elements of a torch or Triton type."""


class Arguments:
    """The arguments of one launch, and the storages behind them."""

    def __init__(self, builder: Any, buffers: Mapping[int, Sequence[Buffer]]) -> None:
        self._builder = builder
        self._buffers = buffers
        self.allocations: dict[int, Allocation] = {}

    def convert(self, parameter: Parameter, argument: Any) -> Any:
        """One argument as the kernel sees it.

        Raises TypeError for an argument that Triton does not take, ValueError for a tensor outside CPU memory,
        UnsupportedFeature for a tensor descriptor that rounds to TF32.
        """
        if parameter.constexpr:
            return _constexpr(argument)
        return self._value(parameter, parameter.name, argument)

    def _value(self, parameter: Parameter, name: str, argument: Any) -> Any:
        if hasattr(argument, "data_ptr") and hasattr(argument, "dtype"):
            return self._pointer(name, *_find_tensor(name, argument), argument.dtype, const=parameter.const)
        if _is_static(parameter, argument):
            return _constexpr(argument)
        if isinstance(argument, tuple | list):
            values = [self._value(parameter, f"{name}[{i}]", a) for i, a in enumerate(argument)]
            return named_tuple(values, fields_of(argument))
        if isinstance(argument, bool) and parameter.dtype is None:
            return fast_tensor(self._builder.get_int1(argument), _type_of("int1"))
        if isinstance(argument, int | float):
            return self._scalar(parameter, argument)
        if is_host_descriptor(argument):
            return self._descriptor(name, argument)
        raise blame_kernel(TypeError(f"a kernel takes no {type(argument).__name__} as argument {name}"))

    def _scalar(self, parameter: Parameter, argument: float | int) -> Any:  # noqa: PYI041
        dtype = parameter.dtype
        if dtype is None:
            dtype = _type_of("fp32" if isinstance(argument, float) else _integer_name(parameter.name, argument))
        make = getattr(self._builder, f"get_{dtype.name}")
        return fast_tensor(make(argument if dtype.is_floating() else int(argument)), intern_type(dtype))

    def _descriptor(self, name: str, argument: Any) -> Any:
        if getattr(argument, "round_f32_to_tf32", False):
            raise UnsupportedFeature(f"a TensorDescriptor with round_f32_to_tf32, argument {name}, is not supported")
        tensor = argument.base if isinstance(argument.base, torch.Tensor) else argument.base.base
        dtype = dtype_of(argument.base.dtype)
        base = self._pointer(name, tensor, _offset(tensor), argument.base.dtype, const=False).handle
        shape = [fast_tensor(self._builder.get_int32(int(n)), _type_of("int32")) for n in argument.shape]
        strides = [fast_tensor(self._builder.get_int64(int(n)), _type_of("int64")) for n in argument.strides]
        padding = SimpleNamespace(name=f"PAD_{argument.padding.upper()}")
        handle = self._builder.create_make_tensor_descriptor(
            base,
            [n.handle for n in shape],
            [n.handle for n in strides],
            argument.block_shape,
            dtype.is_int_signed(),
            padding,
        )
        return host_descriptor(handle, shape, strides, argument.block_shape, dtype)

    def _pointer(self, name: str, tensor: torch.Tensor, base: int, dtype: Any, *, const: bool) -> Any:
        """A pointer to a byte of a tensor's storage."""
        if not tensor.is_cpu:
            raise blame_kernel(
                ValueError(f"lockstep runs on the CPU, but argument {name} is on {tensor.device}; move it with .cpu()")
            )
        key = tensor.untyped_storage().data_ptr()
        allocation = self.allocations.get(key)
        if allocation is None:
            allocation = Allocation(storage_bytes(tensor), key, name, list(self._buffers.get(key, ())))
            self.allocations[key] = allocation
        ty, ir = self._pointer_type(dtype, const=const)
        align = min(base & -base, _MOST_ALIGNED) or _MOST_ALIGNED
        origins = (Origin(allocation, name, base),)
        return fast_tensor(Value(_one(base), ir, (), None, None, base, base, origins, None, align), ty)

    def _pointer_type(self, dtype: Any, *, const: bool) -> tuple[Any, ScalarType]:
        known = _POINTERS.get((dtype, const))
        if known is None:
            with blaming_kernel():
                element = dtype_of(dtype)
            ty = intern_type(pointer_dtype(element, const=const))
            known = _POINTERS[dtype, const] = ty, ty.to_ir(self._builder)
        return known


@lru_cache(maxsize=1 << 10)
def _one(offset: int) -> Array:
    """An array of one offset."""
    made = np.array([offset], np.int64)
    made.flags.writeable = False
    return made


@cache
def _type_of(name: str) -> Any:
    """The scalar type of a name."""
    return intern_type(Dtype(name))


def _find_tensor(name: str, argument: Any) -> tuple[torch.Tensor, int]:
    """The tensor whose memory an argument points into, itself or one that it wraps, and the byte of the storage.

    Raises UnsupportedFeature where an address is all there is.
    """
    if isinstance(argument, torch.Tensor):
        return argument, _offset(argument)
    for held in vars(argument).values():
        if isinstance(held, torch.Tensor):
            storage = held.untyped_storage()
            base = int(argument.data_ptr()) - storage.data_ptr()
            if 0 <= base <= storage.nbytes():
                return held, base
    raise UnsupportedFeature(f"argument {name}, a {type(argument).__name__} with an address and no tensor")


def _offset(tensor: torch.Tensor) -> int:
    """Where in its storage a tensor starts, in bytes."""
    return int(tensor.storage_offset()) * tensor.element_size()


def _is_static(parameter: Parameter, argument: Any) -> bool:
    """Whether Triton takes an argument as known while compiling, though its parameter is no constexpr."""
    if argument is None or isinstance(argument, Constexpr | Dtype | str) or is_jit(argument):
        return True
    return type(argument) is int and argument == 1 and parameter.specialised and parameter.dtype is None


def _constexpr(argument: Any) -> Any:
    """An argument that is known while compiling; a tuple becomes one of the language, part by part."""
    if isinstance(argument, tuple | list):
        return named_tuple([_constexpr(a) for a in argument], fields_of(argument))
    return argument if isinstance(argument, Constexpr) else Constexpr(argument)


def _integer_name(name: str, value: int) -> str:
    if -(2**31) <= value < 2**31:
        return "int32"
    if -(2**63) <= value < 2**63:
        return "int64"
    if value < 2**64:
        return "uint64"
    raise blame_kernel(TypeError(f"argument {name} does not fit 64 bits: {value}"))
