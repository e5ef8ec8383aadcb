"""What a translated kernel calls: the calls themselves, and the table of helpers that its code names."""

import inspect
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any, Final

from indexfuzz.lockstep.language.meetings import Meetings
from indexfuzz.lockstep.language.operators import BoundJit, Operators, intern_result, is_value
from indexfuzz.lockstep.language.recording import Recordings, key_of
from indexfuzz.lockstep.language.translate import Translated, translate
from indexfuzz.lockstep.operations.builder import Builder
from indexfuzz.lockstep.operations.lanewise import each_lane
from indexfuzz.lockstep.tracking.attribution import blame_kernel, blaming_kernel
from indexfuzz.lockstep.tracking.ends import Ends
from indexfuzz.lockstep.tracking.recall import Recall
from indexfuzz.lockstep.tracking.violations import StaticAssertionError
from indexfuzz.lockstep.triton_api.front_end import Refusal
from indexfuzz.lockstep.triton_api.functions import (
    BUILTIN_NAMES,
    bind_plainly,
    is_builtin,
    is_constexpr_function,
    is_jit,
)
from indexfuzz.lockstep.triton_api.semantic import LockstepSemantic
from indexfuzz.lockstep.triton_api.types import (
    DEVICE_ASSERT,
    MAP_ELEMENTWISE,
    STATIC_ASSERT,
    STATIC_PRINT,
    BaseValue,
    Constexpr,
    Tensor,
    Tuple,
    fast_tensor,
    fields_of,
    intern_type,
    named_tuple,
    unwrap,
)
from indexfuzz.lockstep.values.value import Value


@dataclass(slots=True)
class _Builtin:
    semantic: bool
    generator: bool


class Runtime(Operators, Meetings):
    """The state behind the helpers; one for the process, because translated functions are cached."""

    def __init__(self) -> None:
        self.builder = Builder()
        self.semantic = LockstepSemantic(self.builder)
        self.recordings = Recordings(self.semantic)
        self.builder.call = self.call_jit
        self.builder.semantic = self.semantic
        self.launch = 0
        self.ends: Ends | None = None
        self.ordered: Counter[str] | None = None
        self.recall: Recall | None = None
        self.helpers: dict[str, Any] = {}
        self.translated: dict[int, Translated] = {}
        self.builtins: dict[Any, _Builtin] = {}
        self.verdicts: dict[Any, Refusal | None] = {}
        self.alike: set[Any] = set()

    def call(self, fn: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:  # noqa: PLR0911
        """Call what a kernel calls."""
        kind = type(fn)
        if kind is FunctionType and fn in self.builtins:
            return self.call_builtin(fn, args, kwargs)
        if kind is MethodType and type(fn.__self__) is Tensor:
            args.insert(0, fn.__self__)
            return self.call_builtin(fn.__func__, args, kwargs)
        if kind is Constexpr:
            fn = fn.value
        elif kind is BoundJit:
            args.insert(0, fn.owner)
            fn = fn.function
        if is_jit(fn):
            return self.call_jit(fn, args, kwargs)
        if isinstance(fn, MethodType):
            owner = fn.__self__
            if isinstance(owner, BaseValue) and not isinstance(owner, Constexpr):
                return self.call_builtin(fn.__func__, [owner, *args], kwargs)
            return self.plain(fn, args, kwargs, unwrapped=True)
        if is_constexpr_function(fn):
            result = fn(*args, **kwargs, _semantic=self.semantic)
            return result if isinstance(result, BaseValue) else Constexpr(result)
        static = _STATIC.get(fn) if getattr(fn, "__hash__", None) else None
        if static is not None:
            return static(self, args, kwargs)
        if is_builtin(fn):
            return self.call_builtin(fn, args, kwargs)
        module = str(getattr(fn, "__module__", ""))
        if module.endswith(".libdevice"):
            return self.libdevice(fn.__name__, args, kwargs)
        inner = getattr(fn, "__self__", None)
        return self.plain(fn, args, kwargs, unwrapped=fn in _PYTHON or (inner is not None and not is_value(inner)))

    def call_builtin(self, fn: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """A function of the language, or a method of a tensor (unbound, args then has the tensor first)."""
        names = tuple(kwargs)
        given = [*args, *kwargs.values()] if names else args
        parts: list[Any] = [fn, names]
        operands = [self.semantic.builder]
        for argument in given:
            if type(argument) is Tensor:
                # A type that is not interned is in no key: then there is no replay, and the key is made below.
                parts.append(id(argument.type))
                operands.append(argument.handle)
            else:
                parts.append(key_of(argument))
        replay = self.recordings.known.get(tuple(parts))
        if replay is not None:
            return replay(*operands)
        key = (fn, names, *map(key_of, given))
        if None in key:
            return self.perform(fn, args, kwargs)
        count = len(args)

        def perform(arguments: Sequence[Any]) -> Any:
            return self.perform(fn, arguments[:count], dict(zip(names, arguments[count:], strict=True)))

        return self.recordings.call(key, perform, given)

    def perform(self, fn: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call a function of the language with what it wants besides its arguments."""
        known = self.builtins.get(fn)
        if known is None:
            parameters = inspect.signature(fn).parameters
            known = self.builtins[fn] = _Builtin("_semantic" in parameters, "_generator" in parameters)
        if known.semantic:
            kwargs["_semantic"] = self.semantic
        if known.generator:
            kwargs["_generator"] = self
        result = fn(*args, **kwargs)
        return intern_result(Tuple(result) if isinstance(result, tuple) else result)

    def plain(self, fn: Any, args: list[Any], kwargs: dict[str, Any], *, unwrapped: bool) -> Any:
        """Python's own functions, on what is known while compiling."""
        with blaming_kernel():
            result = fn(*(unwrap(a) for a in args), **kwargs) if unwrapped else fn(*args, **kwargs)
        if isinstance(result, tuple | Tuple):
            values = [v if isinstance(v, BaseValue) else Constexpr(v) for v in result]
            return named_tuple(values, fields_of(result))
        return result if isinstance(result, BaseValue) else Constexpr(result)

    def call_jit(self, fn: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        code = self.translated.get(id(fn))
        if code is None:
            code = self.translated[id(fn)] = translate(fn, self.helpers)
        code.refresh(self.launch)
        parameters = code.parameters
        bound = bind_plainly(parameters, code.defaults, args, kwargs) if code.is_plain else None
        if bound is None:
            with blaming_kernel():
                given = fn.signature.bind(*args, **kwargs).arguments
            bound = [given[p] if p in given else code.defaults.get(p, ()) for p in parameters]
        return code.call(*[a if type(a) is Tensor else normalise(a) for a in bound])

    def call_JitFunction(self, fn: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """The name under which Triton's own helpers ask for it."""
        return self.call_jit(fn, list(args), kwargs)

    def libdevice(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """A math function of the device library."""
        return self.builder.libdevice(name, [self.semantic.to_tensor(a) for a in args], kwargs)

    def static_assert(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        passed = unwrap(args[0] if args else kwargs["cond"])
        if not isinstance(passed, bool):
            raise NotImplementedError("tl.static_assert needs a condition that is known while compiling")
        if not passed:
            message = unwrap(args[1]) if len(args) > 1 else unwrap(kwargs.get("msg", ""))
            raise blame_kernel(AssertionError(message), StaticAssertionError)

    def static_print(self, args: list[Any], _kwargs: dict[str, Any]) -> None:
        """What is known while compiling, on a line of its own."""
        sys.stdout.write(f"{' '.join(str(unwrap(a)) for a in args)}\n")

    def map_elementwise(self, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """tl.map_elementwise: a scalar function, each lane taking its own branches."""
        if unwrap(kwargs.get("pack", 1)) != 1:
            raise self.builder.unsupported("tl.map_elementwise with pack above 1")
        function = unwrap(args[0])
        blocks = self.semantic.broadcast_tensors(*args[1:])
        types = [t.type.scalar for t in blocks]
        found: list[Any] = []

        def scalars(lanes: list[Value]) -> list[Value]:
            result = self.call_jit(function, [Tensor(v, t) for v, t in zip(lanes, types, strict=True)], {})
            single = isinstance(result, Tensor)
            parts = [result] if single else list(result)
            found[:] = [single, *(p.type for p in parts)]
            return [p.handle for p in parts]

        values = each_lane(scalars, [t.handle for t in blocks])
        single, *made = found
        shaped = [blocks[0].type.with_element_ty(t) for t in made]
        tensors = [fast_tensor(v, intern_type(t)) for v, t in zip(values, shaped, strict=True)]
        return tensors[0] if single else Tuple(tensors)

    def device_assert(self, test: Any, message: Any) -> None:
        """`assert`, and tl.device_assert through the language."""
        self.call(DEVICE_ASSERT, [test, message], {})


def normalise(argument: Any) -> Any:
    """An argument as the callee sees it: everything that is no value of the language becomes a constexpr."""
    if isinstance(argument, BaseValue):
        return argument
    if isinstance(argument, tuple):
        return named_tuple([normalise(a) for a in argument], fields_of(argument))
    return Constexpr(argument)


_PYTHON: Final = tuple(BUILTIN_NAMES.values())
_STATIC: Final[dict[Any, Callable[[Runtime, list[Any], dict[str, Any]], Any]]] = {
    STATIC_ASSERT: Runtime.static_assert,
    MAP_ELEMENTWISE: Runtime.map_elementwise,
    STATIC_PRINT: Runtime.static_print,
    int: lambda runtime, args, _: runtime.plain(int, args, {}, unwrapped=True),
    len: lambda _, args, __: Constexpr(len(args[0] if isinstance(args[0], Tuple) else unwrap(args[0]))),
}
