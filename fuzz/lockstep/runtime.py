"""What a translated kernel calls: operators, calls, branches and loops with the meaning of Triton's code generator."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import MethodType
from typing import Any, Final

import numpy as np

from indexfuzz.lockstep import triton_api
from indexfuzz.lockstep.builder import Builder
from indexfuzz.lockstep.divergence import Divergence, split_by
from indexfuzz.lockstep.dtypes import I1
from indexfuzz.lockstep.lanewise import each_lane
from indexfuzz.lockstep.recording import Recordings, key_of
from indexfuzz.lockstep.translate import Translated, translate
from indexfuzz.lockstep.triton_api import (
    BaseValue,
    Constexpr,
    Dtype,
    LockstepSemantic,
    Tensor,
    Tuple,
    fast_tensor,
    interned_type,
    unwrap,
)
from indexfuzz.lockstep.values import Array, Value

_CONDITIONS: Final = {bool, int, type(None)}

FORWARD: Final = {
    name: f"__{name}__"
    for name in (
        *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift"),
        *("and", "or", "xor", "eq", "ne", "lt", "le", "gt", "ge"),
    )
} | {"logical_and": "logical_and", "logical_or": "logical_or"}
_SWAPPED: Final = {"eq": "__eq__", "ne": "__ne__", "lt": "__gt__", "le": "__ge__", "gt": "__lt__", "ge": "__le__"}
REFLECTED: Final = {
    name: _SWAPPED.get(name, f"__r{name}__") if not name.startswith("logical") else name for name in FORWARD
}


@dataclass(frozen=True, slots=True)
class BoundJit:
    """A jit function looked up on a value: `x.sum`."""

    owner: Any
    function: Any


@dataclass(slots=True)
class _Builtin:
    semantic: bool
    generator: bool


@dataclass(slots=True)
class Runtime:
    """The state behind the helpers; one for the process, because translated functions are cached."""

    builder: Builder = field(default_factory=Builder)
    semantic: Any = None
    launch: int = 0
    translated: dict[int, Translated] = field(default_factory=dict)
    builtins: dict[Any, _Builtin] = field(default_factory=dict)
    recordings: Recordings = field(init=False)

    def __post_init__(self) -> None:
        self.semantic = LockstepSemantic(self.builder)
        self.recordings = Recordings(self.semantic)
        self.builder.call = self.call_jit
        self.builder.semantic = self.semantic

    # calls
    def call(self, fn: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:  # noqa: PLR0911
        """Call what a kernel calls."""
        if type(fn) is Constexpr:
            fn = fn.value
        if type(fn) is BoundJit:
            args.insert(0, fn.owner)
            fn = fn.function
        if triton_api.is_jit(fn):
            return self.call_jit(fn, args, kwargs)
        if isinstance(fn, MethodType):
            owner = fn.__self__
            if isinstance(owner, BaseValue) and not isinstance(owner, Constexpr):
                return self.call_builtin(fn.__func__, [owner, *args], kwargs)
            return self.plain(fn, args, kwargs, unwrapped=True)
        if triton_api.is_constexpr_function(fn):
            result = fn(*args, **kwargs, _semantic=self.semantic)
            return result if isinstance(result, BaseValue) else Constexpr(result)
        static = _STATIC.get(fn) if getattr(fn, "__hash__", None) else None
        if static is not None:
            return static(self, args, kwargs)
        if triton_api.is_builtin(fn):
            return self.call_builtin(fn, args, kwargs)
        module = str(getattr(fn, "__module__", ""))
        if module.endswith(".libdevice"):
            return self.libdevice(fn.__name__, args, kwargs)
        inner = getattr(fn, "__self__", None)
        return self.plain(fn, args, kwargs, unwrapped=fn in _PYTHON or (inner is not None and not _is_value(inner)))

    def call_builtin(self, fn: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """A function of the language, or a method of a tensor (unbound, args then has the tensor first)."""
        parts = [key_of(a) for a in args]
        parts += [key_of(a) for a in kwargs.values()]
        if None in parts:
            return self.perform(fn, args, kwargs)
        names = tuple(kwargs)
        count = len(args)

        def perform(arguments: Sequence[Any]) -> Any:
            return self.perform(fn, arguments[:count], dict(zip(names, arguments[count:], strict=True)))

        return self.recordings.call((fn, names, *parts), perform, [*args, *kwargs.values()])

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
        return canonical(Tuple(result) if isinstance(result, tuple) else result)

    def plain(self, fn: Any, args: list[Any], kwargs: dict[str, Any], *, unwrapped: bool) -> Any:
        """Python's own functions, on what is known while compiling."""
        result = fn(*(unwrap(a) for a in args), **kwargs) if unwrapped else fn(*args, **kwargs)
        if isinstance(result, tuple | Tuple):
            return Tuple([v if isinstance(v, BaseValue) else Constexpr(v) for v in result])
        return result if isinstance(result, BaseValue) else Constexpr(result)

    def call_jit(self, fn: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Another jit function."""
        code = self.translated.get(id(fn))
        if code is None:
            code = self.translated[id(fn)] = translate(fn, HELPERS)
        code.refresh(self.launch)
        parameters = code.parameters
        if not kwargs and len(args) == len(parameters) and code.variadic is None:
            bound = args
        else:
            given = fn.signature.bind(*args, **kwargs).arguments
            bound = [given[p] if p in given else code.defaults.get(p, ()) for p in parameters]
        return code.call(*[a if type(a) is Tensor else normalised(a) for a in bound])

    def call_JitFunction(self, fn: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:  # noqa: N802
        """The name under which Triton's own helpers ask for it."""
        return self.call_jit(fn, list(args), kwargs)

    def libdevice(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """A math function of the device library."""
        return self.builder.libdevice(name, [self.semantic.to_tensor(a) for a in args], kwargs)

    # operators
    def binary(self, name: str, left: Any, right: Any) -> Any:
        """A binary operator or comparison."""
        if type(left) is Tensor or type(right) is Tensor:
            a, b = key_of(left), key_of(right)
            if a is None or b is None:
                return self.apply(name, left, right)
            return self.recordings.call((name, a, b), lambda args: self.apply(name, *args), (left, right))
        if not isinstance(left, Constexpr | Tuple) and isinstance(right, Constexpr):
            left = Constexpr(left)
        return self.call(getattr(left, FORWARD[name]), [right], {})

    def apply(self, name: str, left: Any, right: Any) -> Any:
        """A binary operator of which an operand is a tensor, through the language."""
        if type(left) is Tensor:
            return canonical(getattr(left, FORWARD[name])(right, _semantic=self.semantic))
        return canonical(getattr(right, REFLECTED[name])(left, _semantic=self.semantic))

    def unary(self, name: str, operand: Any) -> Any:
        """A unary operator."""
        if type(operand) is Tensor:
            return self.recordings.call(
                (name, key_of(operand)),
                lambda args: canonical(getattr(args[0], name)(_semantic=self.semantic)),
                (operand,),
            )
        method = getattr(operand, name, None)
        if method is None:
            if name != "__not__":
                raise TypeError(f"{name} on {type(operand).__name__}")
            return Constexpr(not operand)
        return method()

    def boolean(self, name: str, thunks: tuple[Callable[[], Any], ...]) -> Any:
        """`and` and `or`: short circuits only over what is known while compiling."""
        dynamic: list[Any] = []
        value: Any = None
        for thunk in thunks:
            value = thunk()
            if isinstance(value, Tensor):
                dynamic.append(value)
            elif bool(value) is (name == "logical_or"):
                return value
        if not dynamic:
            return value
        while len(dynamic) > 1:
            right, left = dynamic.pop(), dynamic.pop()
            dynamic.append(self.binary(name, left, right))
        return dynamic[0]

    def chain(self, links: tuple[tuple[str, Callable[..., tuple[Any, Any]]], ...]) -> Any:
        """`a < b < c`, each operand evaluated once."""
        left: list[Any] = []

        def link(name: str, operands: Callable[..., tuple[Any, Any]]) -> Callable[[], Any]:
            def evaluate() -> Any:
                a, b = operands(*left)
                left[:] = [b]
                return self.binary(name, a, b)

            return evaluate

        return self.boolean("logical_and", tuple(link(name, operands) for name, operands in links))

    def attribute(self, owner: Any, name: str) -> Any:
        """`owner.name`."""
        if type(owner) is Tensor:
            if name == "T":
                return self.semantic.permute(owner, (1, 0))
        elif type(owner) is Constexpr and name not in {"value", "type"}:
            owner = owner.value
        found = getattr(owner, name)
        if triton_api.is_jit(found) and _is_value(owner):
            return BoundJit(owner, found)
        return found

    def subscript(self, owner: Any, index: Any) -> Any:
        """`owner[index]`."""
        if _is_value(owner):
            return self.call_builtin(type(owner).__getitem__, [owner, index], {})
        return owner[index]

    # statements
    def assign(self, value: Any) -> Any:
        """What a variable holds after an assignment: a tensor, unless the value is none of the language's."""
        if type(value) is Tensor:
            return value
        if isinstance(value, Tuple):
            return Tuple([self.assign(v) if v is not None else Constexpr(None) for v in value], value.type)
        value = unwrap(value)
        if value is None or isinstance(value, BaseValue | Dtype | Tuple):
            return value
        return canonical(self.semantic.to_tensor(value))

    def returned(self, value: Any) -> Any:
        """What a call gives back."""
        if triton_api.RETURNS_CONSTEXPR or type(value) is Tensor:
            return value
        if isinstance(value, Tuple):
            return Tuple([self.returned(v) for v in value], None)
        if isinstance(value, Constexpr | int | float):
            return None if unwrap(value) is None else canonical(self.semantic.to_tensor(value))
        return value

    def branch(self, test: Any) -> bool:
        """Decide an `if` or `while`; raises Divergence where programs disagree."""
        condition = getattr(test, "condition", test) if not isinstance(test, Tensor) else test
        if not isinstance(condition, Tensor):
            known = unwrap(condition)
            if type(known) not in _CONDITIONS:
                raise TypeError(f"a condition must be a bool, an int or None, not {type(known).__name__}")
            return bool(known)
        if condition.type.is_block():
            if condition.numel.value != 1:
                raise TypeError("the truth of a block with more than one element is ambiguous")
            condition = self.semantic.unsplat(condition)
        handle: Value = self.semantic.cast(condition, triton_api.INT1).handle
        return self.builder.decide(handle)

    def choose(self, test: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
        """`a if test else b`."""
        chosen = then if self.branch(test) else otherwise
        value = chosen()
        return canonical(self.semantic.to_tensor(value)) if isinstance(test, Tensor) else value

    def iterate(self, iterator: Any, args: list[Any], kwargs: dict[str, Any]) -> Iterator[Any]:
        """The values of a loop variable; raises Divergence where programs run different numbers of times."""
        iterator = unwrap(iterator)
        if iterator is triton_api.STATIC_RANGE:
            static = iterator(*args, **kwargs)
            return (Constexpr(i) for i in range(static.start.value, static.end.value, static.step.value))
        if iterator is triton_api.RANGE:
            dynamic = iterator(*args, **kwargs)
            bounds = (dynamic.start, dynamic.end, dynamic.step)
        elif iterator is range:
            first = args[0] if len(args) > 1 else Constexpr(0)
            bounds = (first, args[1] if len(args) > 1 else args[0], args[2] if len(args) > 2 else Constexpr(1))
        else:
            raise TypeError("a kernel loops over range, tl.range or tl.static_range only")
        return self._count(*bounds)

    def _count(self, first: Any, last: Any, step: Any) -> Iterator[Any]:
        semantic = self.semantic
        lower, upper, stride = (semantic.to_tensor(unwrap(b)) for b in (first, last, step))
        for bound in (lower, upper, stride):
            if not bound.dtype.is_int() or bound.type.is_block():
                raise TypeError(f"a loop's bounds and step are integer scalars, not {bound.type}")
        ty = semantic.integer_promote_impl(semantic.integer_promote_impl(lower.dtype, upper.dtype), stride.dtype)
        a, b, s = (_integers(x, ty) for x in (lower, upper, stride))
        builder = self.builder
        for bound in (lower, upper, stride):
            builder.used(bound.handle, "a loop bound")
        if (s == 0).any():
            raise ValueError("a loop's step is zero")
        trips = np.maximum(np.where(s > 0, -((a - b) // s), -((b - a) // -s)), 0)
        builder.seen("branch", trips > 0)
        if trips.size > 1 and (trips != trips[0]).any():
            raise Divergence(split_by(trips))
        container = ty.to_ir(builder)
        ty = interned_type(ty)
        a_value, s_value = a.astype(container.container), s.astype(container.container)
        for i in range(int(trips[0])):
            yield fast_tensor(Value(a_value + s_value * container.container.type(i), container), ty)

    def static_assert(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        """tl.static_assert."""
        passed = unwrap(args[0] if args else kwargs["cond"])
        if not isinstance(passed, bool):
            raise NotImplementedError("tl.static_assert needs a condition that is known while compiling")
        if not passed:
            raise AssertionError(unwrap(args[1]) if len(args) > 1 else unwrap(kwargs.get("msg", "")))

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
        tensors = [fast_tensor(v, interned_type(t)) for v, t in zip(values, shaped, strict=True)]
        return tensors[0] if single else Tuple(tensors)

    def device_assert(self, test: Any, message: Any) -> None:
        """`assert`, and tl.device_assert through the language."""
        self.call(triton_api.DEVICE_ASSERT, [test, message], {})


def canonical(result: Any) -> Any:
    """A result whose tensors have interned types."""
    if type(result) is Tensor:
        result.type = interned_type(result.type)
    elif isinstance(result, Tuple):
        for value in result:
            canonical(value)
    return result


def _integers(x: Any, ty: Any) -> Array:
    data: Array = x.handle.data
    if x.dtype.is_int_unsigned() and x.handle.ty is not I1:
        data = data.view(x.handle.ty.unsigned)
    if ty.is_int_unsigned() and ty.int_bitwidth < 64:
        return np.asarray(data.astype(np.int64) & ((1 << ty.int_bitwidth) - 1))
    return data.astype(np.int64)


def _is_value(x: Any) -> bool:
    return isinstance(x, BaseValue)


def normalised(argument: Any) -> Any:
    """An argument as the callee sees it: everything that is no value of the language becomes a constexpr."""
    if isinstance(argument, BaseValue):
        return argument
    if isinstance(argument, tuple):
        return Tuple([normalised(a) for a in argument])
    return Constexpr(argument)


def _format(parts: list[Any]) -> str:
    text = []
    for part in parts:
        if isinstance(part, str):
            text.append(part)
            continue
        value, conversion = part
        if isinstance(value, Tensor):
            raise TypeError("an f-string in a kernel shows only what is known while compiling")
        text.append(("{}" if conversion < 0 else "{!" + chr(conversion) + "}").format(unwrap(value)))
    return "".join(text)


def _comprehension(items: Any, element: Callable[[Any], Any], conditions: Callable[[Any], tuple[Any, ...]]) -> Any:
    if not isinstance(items, Tuple):
        raise TypeError("a comprehension in a kernel goes over a tuple")
    return Tuple([element(i) for i in items if all(unwrap(c) for c in conditions(i))])


RUNTIME: Final = Runtime()
_PYTHON: Final = tuple(triton_api.BUILTIN_NAMES.values())
_STATIC: Final[dict[Any, Callable[[Runtime, list[Any], dict[str, Any]], Any]]] = {
    triton_api.STATIC_ASSERT: Runtime.static_assert,
    triton_api.MAP_ELEMENTWISE: Runtime.map_elementwise,
    triton_api.STATIC_PRINT: lambda _, args, __: print(*(unwrap(a) for a in args)),  # noqa: T201
    int: lambda _, args, __: Constexpr(int(*(unwrap(a) for a in args))),
    len: lambda _, args, __: Constexpr(len(args[0] if isinstance(args[0], Tuple) else unwrap(args[0]))),
}

HELPERS: Final[dict[str, Any]] = {
    "_ls_call": RUNTIME.call,
    "_ls_binary": RUNTIME.binary,
    "_ls_unary": RUNTIME.unary,
    "_ls_boolean": RUNTIME.boolean,
    "_ls_chain": RUNTIME.chain,
    "_ls_attribute": RUNTIME.attribute,
    "_ls_subscript": RUNTIME.subscript,
    "_ls_assign": RUNTIME.assign,
    "_ls_constexpr": lambda value: value if isinstance(value, Tuple) else Constexpr(value),
    "_ls_return": RUNTIME.returned,
    "_ls_branch": RUNTIME.branch,
    "_ls_choose": RUNTIME.choose,
    "_ls_iterate": RUNTIME.iterate,
    "_ls_assert": RUNTIME.device_assert,
    "_ls_tuple": Tuple,
    "_ls_slice": triton_api.Slice,
    "_ls_is": lambda a, b: Constexpr(unwrap(a) is unwrap(b)),
    "_ls_is_not": lambda a, b: Constexpr(unwrap(a) is not unwrap(b)),
    "_ls_format": _format,
    "_ls_comprehension": _comprehension,
}
