"""The one runtime of the process, and the names under which translated code finds what it needs."""

from collections.abc import Callable
from typing import Any, Final

from indexfuzz.lockstep.language.meetings import types_of
from indexfuzz.lockstep.language.runtime import Runtime
from indexfuzz.lockstep.tracking.attribution import blame_kernel
from indexfuzz.lockstep.triton_api.types import Constexpr, Slice, Tensor, Tuple, unwrap


def _format(parts: list[Any]) -> str:
    text = []
    for part in parts:
        if isinstance(part, str):
            text.append(part)
            continue
        value, conversion = part
        if isinstance(value, Tensor):
            raise blame_kernel(TypeError("an f-string in a kernel shows only what is known while compiling"))
        text.append(("{}" if conversion < 0 else "{!" + chr(conversion) + "}").format(unwrap(value)))
    return "".join(text)


def _comprehension(items: Any, element: Callable[[Any], Any], conditions: Callable[[Any], tuple[Any, ...]]) -> Any:
    if not isinstance(items, Tuple):
        raise blame_kernel(TypeError("a comprehension in a kernel goes over a tuple"))
    return Tuple([element(i) for i in items if all(unwrap(c) for c in conditions(i))])


RUNTIME: Final = Runtime()

RUNTIME.helpers |= {
    "_ls_call": RUNTIME.call,
    "_ls_binary": RUNTIME.binary,
    "_ls_compare": RUNTIME.compare,
    "_ls_unary": RUNTIME.unary,
    "_ls_boolean": RUNTIME.boolean,
    "_ls_chain": RUNTIME.chain,
    "_ls_attribute": RUNTIME.attribute,
    "_ls_subscript": RUNTIME.subscript,
    "_ls_assign": RUNTIME.assign,
    "_ls_constexpr": lambda value: value if isinstance(value, Tuple) else Constexpr(value),
    "_ls_return": RUNTIME.give_back,
    "_ls_branch": RUNTIME.branch,
    "_ls_again": RUNTIME.again,
    "_ls_fork": RUNTIME.fork,
    "_ls_join": RUNTIME.join,
    "_ls_types": types_of,
    "_ls_carry": RUNTIME.carry,
    "_ls_doubt": RUNTIME.doubt,
    "_ls_doubt_function": RUNTIME.doubt_function,
    "_ls_choose": RUNTIME.choose,
    "_ls_iterate": RUNTIME.iterate,
    "_ls_assert": RUNTIME.device_assert,
    "_ls_tuple": Tuple,
    "_ls_slice": Slice,
    "_ls_is": lambda a, b: Constexpr(unwrap(a) is unwrap(b)),
    "_ls_is_not": lambda a, b: Constexpr(unwrap(a) is not unwrap(b)),
    "_ls_format": _format,
    "_ls_comprehension": _comprehension,
}
