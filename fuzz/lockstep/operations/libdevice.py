"""Functions of the device library for which the builder has an operation."""

from collections.abc import Sequence
from typing import Any, Final

from indexfuzz.lockstep.operations.context import Context
from indexfuzz.lockstep.triton_api.types import Tensor
from indexfuzz.lockstep.values.value import Value

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


class DeviceLibraryOps(Context):
    """Calls of tl.extra.libdevice."""

    def libdevice(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """A function of the device library, called by its name in tl.extra.libdevice."""
        if name not in DEVICE_FUNCTIONS or kwargs or not all(a.dtype.is_floating() for a in args):
            raise self.unsupported(f"libdevice.{name}")
        operation = getattr(self, DEVICE_FUNCTIONS[name])
        return Tensor(operation(*(a.handle for a in args)), args[0].type)

    def create_extern_elementwise(self, _lib: str, _path: str, symbol: str, args: Sequence[Value], *_: Any) -> Value:
        """A function of the device library, called by its symbol."""
        name = symbol.removeprefix("__nv_").removeprefix("__ocml_").removesuffix("_f32").removesuffix("_f64")
        operation = DEVICE_FUNCTIONS.get(name) or DEVICE_FUNCTIONS.get(name.removesuffix("f"))
        if operation is None or any(a.ty.kind != "float" for a in args):
            raise self.unsupported(f"the device function {symbol}")
        result: Value = getattr(self, operation)(*args)
        return result
