"""Functions of the device library, by the names that tl.extra.libdevice and CUDA's and ROCm's libraries give them."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from indexfuzz.lockstep.arithmetic.nan import canonical_nan
from indexfuzz.lockstep.operations.context import Context
from indexfuzz.lockstep.triton_api.types import INT1, Tensor, intern_type
from indexfuzz.lockstep.values.arrays import Array, either
from indexfuzz.lockstep.values.dtypes import FP32, FP64, I1
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


def _each(function: Callable[[float], float]) -> Callable[[Array], Array]:
    """A function of Python's floats, element by element."""
    return lambda x: np.array([function(v) for v in x.ravel().tolist()], np.float64).reshape(x.shape)


FROM_FLOAT64: Final[dict[str, Callable[..., Array]]] = {
    "log1p": np.log1p,
    "log10": np.log10,
    "expm1": np.expm1,
    "exp10": lambda x: np.power(10.0, x),
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "cbrt": np.cbrt,
    "erfc": _each(math.erfc),
    "pow": np.power,
    "atan2": np.arctan2,
    "hypot": np.hypot,
    "fmod": np.fmod,
    "copysign": np.copysign,
    "rcbrt": lambda x: 1.0 / np.cbrt(x),
}
"""Functions that are the nearest fp32 to a float64 result; a GPU's are a few units in the last place from it."""

TESTS: Final[dict[str, Callable[[Array], Array]]] = {"isnan": np.isnan, "isinf": np.isinf, "finitef": np.isfinite}


class DeviceLibraryOps(Context):
    """Calls of tl.extra.libdevice."""

    def libdevice(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """A function of the device library, called by its name in tl.extra.libdevice."""
        if kwargs or not all(a.dtype.is_floating() for a in args):
            raise self.unsupported(f"libdevice.{name}")
        args = list(self.semantic.broadcast_tensors(*args)) if len(args) > 1 else args
        made = self._call(f"libdevice.{name}", name, [a.handle for a in args])
        ty = args[0].type
        if made.ty is I1:
            ty = intern_type(ty.with_element_ty(INT1) if ty.is_block() else INT1)
        return Tensor(made, ty)

    def create_extern_elementwise(self, _lib: str, _path: str, symbol: str, args: Sequence[Value], *_: Any) -> Value:
        """A function of the device library, called by its symbol."""
        name = symbol.removeprefix("__nv_").removeprefix("__ocml_").removesuffix("_f32").removesuffix("_f64")
        if name not in DEVICE_FUNCTIONS and name not in FROM_FLOAT64:
            name = name.removesuffix("f")
        if any(a.ty.kind != "float" for a in args) or name in TESTS:
            raise self.unsupported(f"the device function {symbol}")
        return self._call(f"the device function {symbol}", name, list(args))

    def _call(self, words: str, name: str, args: list[Value]) -> Value:
        if name in DEVICE_FUNCTIONS:
            result: Value = getattr(self, DEVICE_FUNCTIONS[name])(*args)
            return result
        undefined = None
        for arg in args:
            undefined = either(undefined, arg.undefined)
        if name in TESTS:
            return Value(TESTS[name](args[0].data), I1, args[0].shape, undefined)
        if name not in FROM_FLOAT64 or any(a.ty not in (FP32, FP64) for a in args):
            raise self.unsupported(words)
        data = FROM_FLOAT64[name](*(a.data.astype(np.float64) for a in args))
        if args[0].ty is FP32:
            data = canonical_nan(data.astype(np.float32))
        return Value(data, args[0].ty, args[0].shape, undefined)
