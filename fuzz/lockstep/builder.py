"""The builder that Triton's semantic layer writes to: it computes instead of building IR."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from indexfuzz.lockstep import dtypes, triton_api
from indexfuzz.lockstep.blame import fault
from indexfuzz.lockstep.checkers import promises, undefined
from indexfuzz.lockstep.divergence import Divergence, split_by
from indexfuzz.lockstep.dtypes import BlockType, ScalarType
from indexfuzz.lockstep.ops_block_pointer import BlockPointerOps
from indexfuzz.lockstep.ops_cast import CastOps
from indexfuzz.lockstep.ops_dot import DotOps
from indexfuzz.lockstep.ops_float import FloatOps
from indexfuzz.lockstep.ops_integer import IntegerOps
from indexfuzz.lockstep.ops_reduce import ReduceOps
from indexfuzz.lockstep.ops_shape import ShapeOps
from indexfuzz.lockstep.values import Mask, Value

DEVICE_FUNCTIONS: Final = {
    "exp": "create_exp",
    "exp2": "create_exp2",
    "log": "create_log",
    "log2": "create_log2",
    "sqrt": "create_precise_sqrt",
    "rsqrt": "create_rsqrt",
    "floor": "create_floor",
    "ceil": "create_ceil",
    "trunc": "create_trunc",
    "rint": "create_rint",
    "nearbyint": "create_rint",
    "round": "create_round",
    "abs": "create_fabs",
    "fabs": "create_fabs",
    "fma": "create_fma",
    "sin": "create_sin",
    "cos": "create_cos",
    "tanh": "create_tanh",
    "erf": "create_erf",
}
"""The device library's names of operations that the builder has."""


class Builder(IntegerOps, FloatOps, CastOps, ShapeOps, BlockPointerOps, ReduceOps, DotOps):
    """Everything that the language can ask for; what it cannot find here raises UnsupportedFeature."""

    options = triton_api.OPTIONS
    codegen_fns: dict[str, Any]

    def __init__(self) -> None:
        self.codegen_fns = {"min_dot_size": lambda *_: (1, 1, 1), "convert_custom_types": self._convert_custom}

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("create_", "get_")):
            raise self.unsupported(name.removeprefix("create_").removeprefix("get_"))
        raise AttributeError(name)

    # types
    def get_void_ty(self) -> ScalarType:
        """No value."""
        return dtypes.VOID

    def get_int1_ty(self) -> ScalarType:
        """i1."""
        return dtypes.I1

    def get_int8_ty(self) -> ScalarType:
        """i8."""
        return dtypes.I8

    def get_int16_ty(self) -> ScalarType:
        """i16."""
        return dtypes.I16

    def get_int32_ty(self) -> ScalarType:
        """i32."""
        return dtypes.I32

    def get_int64_ty(self) -> ScalarType:
        """i64."""
        return dtypes.I64

    def get_half_ty(self) -> ScalarType:
        """fp16."""
        return dtypes.FP16

    def get_bf16_ty(self) -> ScalarType:
        """bf16."""
        return dtypes.BF16

    def get_float_ty(self) -> ScalarType:
        """fp32."""
        return dtypes.FP32

    def get_double_ty(self) -> ScalarType:
        """fp64."""
        return dtypes.FP64

    def get_fp8e4nv_ty(self) -> ScalarType:
        """OCP e4m3."""
        return dtypes.E4M3FN

    def get_fp8e4b8_ty(self) -> ScalarType:
        """AMD's e4m3."""
        return dtypes.E4M3FNUZ

    def get_fp8e5_ty(self) -> ScalarType:
        """OCP e5m2."""
        return dtypes.E5M2

    def get_fp8e5b16_ty(self) -> ScalarType:
        """AMD's e5m2."""
        return dtypes.E5M2FNUZ

    def get_fp8e4b15_ty(self) -> ScalarType:
        """e4m3 with bias 15; only a name, nothing converts to it."""
        return dtypes.E4M3B11FNUZ

    def get_ptr_ty(self, element: ScalarType | BlockType, _space: Any) -> ScalarType:
        """A pointer."""
        return dtypes.pointer_to(element)

    def get_block_ty(self, element: ScalarType, shape: Sequence[int]) -> BlockType:
        """A block."""
        return dtypes.block_of(element, tuple(shape))

    def get_cache_policy(self, *_: Any) -> None:
        """Caches do not change results."""

    def _convert_custom(self, *_: Any, **__: Any) -> Any:
        raise self.unsupported("fp8e4b15")

    # programs
    def create_get_program_id(self, axis: int) -> Value:
        """Which program this is, along an axis of the grid."""
        return self.run.launch.program_id(self.run, axis)

    def create_get_num_programs(self, axis: int) -> Value:
        """How many programs the grid has along an axis."""
        return self.get_int32(self.run.launch.grid[axis])

    def decide(self, condition: Value) -> bool:
        """A condition's value where all programs agree on it; raises Divergence where they do not.

        An undefined one is false, so that no loop goes on for its sake.
        """
        self.used(condition, "a branch condition")
        data = condition.data if condition.undefined is None else condition.data & ~condition.undefined
        self.run.seen("branch", data)
        if data.shape[0] == 1 or (data == data[0]).all():
            return bool(data[0])
        raise Divergence(split_by(data))

    def used(self, value: Value, what: str) -> None:
        """Report a value that decides about control flow and that nothing defined."""
        if value.undefined is not None and self.run.checks.undefined and value.undefined.any():
            undefined.report(self.run, value, value.undefined, f"{what} is undefined")

    def seen(self, kind: str, mask: Mask | None) -> None:
        """Note a mask for the coverage, None for an operation without one."""
        self.run.seen(kind, mask)

    # hints and checks
    def promise(self, name: str, value: Value, values: Sequence[int]) -> None:
        """A hint about a value; it has to be true."""
        if self.run.checks.promises:
            promises.check(self.run, name, value, [int(v) for v in values])

    def create_assume(self, condition: Value) -> None:
        """tl.assume."""
        if self.run.checks.promises:
            promises.check_assumption(self.run, condition)

    def create_assert(self, condition: Value, message: str, *_: Any) -> None:
        """tl.device_assert and `assert`."""
        failed = ~condition.data
        if condition.undefined is not None:
            failed &= ~condition.undefined
        if failed.any():
            index = np.unravel_index(int(np.argmax(failed)), failed.shape)
            program = self.run.launch.coordinates(int(self.run.programs[int(index[0])]))
            raise fault(AssertionError(f"device_assert failed in program {program}: {message}"))

    def create_barrier(self) -> None:
        """Lanes are in step already."""

    create_grid_dependency_wait = create_barrier
    create_grid_dependency_launch_dependents = create_barrier

    def create_print(self, prefix: str, hexadecimal: bool, values: Sequence[Value], *_: Any) -> None:  # noqa: FBT001
        """tl.device_print: one line for each value, all programs in it."""
        for value in values:
            data = value.full(self.run.count)
            shown = np.vectorize(hex)(data) if hexadecimal else data
            print(f"{prefix}{shown}")  # noqa: T201
        if not values:
            print(prefix)  # noqa: T201

    def libdevice(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """A function of the device library, called by its name in tl.extra.libdevice."""
        if name not in DEVICE_FUNCTIONS or kwargs or not all(a.dtype.is_floating() for a in args):
            raise self.unsupported(f"libdevice.{name}")
        operation = getattr(self, DEVICE_FUNCTIONS[name])
        return triton_api.Tensor(operation(*(a.handle for a in args)), args[0].type)

    def create_extern_elementwise(self, _lib: str, _path: str, symbol: str, args: Sequence[Value], *_: Any) -> Value:
        """A function of the device library, called by its symbol."""
        name = symbol.removeprefix("__nv_").removeprefix("__ocml_").removesuffix("_f32").removesuffix("_f64")
        operation = DEVICE_FUNCTIONS.get(name) or DEVICE_FUNCTIONS.get(name.removesuffix("f"))
        if operation is None or any(a.ty.kind != "float" for a in args):
            raise self.unsupported(f"the device function {symbol}")
        result: Value = getattr(self, operation)(*args)
        return result
