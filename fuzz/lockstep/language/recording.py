"""Remember what Triton's semantic layer asks of the builder, and ask it directly the next time.

The layer decides by types and constants alone, never by values. So a call of the language with arguments of the same
types makes the same sequence of builder calls; recorded once, it becomes a Python function of the operands.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any, Final, cast

from indexfuzz.lockstep.triton_api.types import (
    INTERNED,
    Constexpr,
    Dtype,
    Slice,
    Tensor,
    Tuple,
    facts_of,
    fast_tensor,
    intern_type,
)
from indexfuzz.lockstep.values.dtypes import BlockType, ScalarType
from indexfuzz.lockstep.values.value import Value

_PLAIN: Final = (int, float, bool, str, type(None), ScalarType, BlockType)

_LITERALS: Final[dict[int, tuple[Any, Any]]] = {}
"""Tuples and slices of literals in translated code, and their keys, by identity; they live as long as the process."""

_SHORT: Final[dict[Any, object]] = {}
"""One object for each key of a literal, which is compared faster than the key."""

_CONVERSIONS: Final = frozenset(
    f"create_{name}"
    for name in ("splat", "int_cast", "si_to_fp", "ui_to_fp", "fp_to_si", "fp_to_ui", "fp_trunc", "fp_ext", "bitcast")
)
"""Calls that ask for nothing but their arguments: of constants they make a constant."""

Replay = Callable[..., Any]
Key = tuple[Any, ...]


def key_of(argument: Any) -> Any:
    """What a recording may depend on of one argument; None where the argument cannot be part of one."""
    kind = type(argument)
    if kind is Tensor:
        ty = argument.type
        if INTERNED.get(id(ty)) is not ty:
            argument.type = ty = intern_type(ty)
        return id(ty)
    if kind is Constexpr:
        argument = argument.value
        kind = type(argument)
    if kind is float:
        return kind, argument.hex()
    if kind in (int, bool, str, type(None)):
        return kind, argument
    if isinstance(argument, Dtype):
        return Dtype, argument.name
    if kind is Tuple or kind is Slice:
        known = _LITERALS.get(id(argument))
        return _constants(argument) if known is None else known[1]
    return None


def literal(value: Any) -> Any:
    """The value, which must never change; the key of a tuple or slice is made once."""
    if isinstance(value, Tuple | Slice):
        key = _constants(value)
        _LITERALS[id(value)] = value, None if key is None else _SHORT.setdefault(key, object())
    return value


def _constants(value: Any) -> Any:
    """The key of what a tuple or slice consists of; None where a part is a tensor: a recording must take its value."""
    keys: list[Any] = [type(value)]
    for item in value if type(value) is Tuple else (value.start, value.stop, value.step):
        key = None if type(item) is Tensor else key_of(item)
        if key is None:
            return None
        keys.append(key)
    return tuple(keys)


class Recorder:
    """A builder that writes down its calls."""

    def __init__(self, builder: Any, inputs: Sequence[Value]) -> None:
        self.builder = builder
        self.inputs = len(inputs)
        self.names: dict[int, str] = {id(v): f"a{i}" for i, v in enumerate(inputs)}
        self.alive: list[Value] = list(inputs)
        self.constants: dict[str, Any] = {
            "new": object.__new__,
            "Tensor": Tensor,
            "fast_tensor": fast_tensor,
            "Tuple": Tuple,
        }
        self.methods: dict[str, str] = {}
        self.lines: list[str] = []
        self.opaque = False

    def __getattr__(self, name: str) -> Any:
        target = getattr(self.builder, name)
        if not callable(target) or name.endswith("_ty"):
            return target

        def call(*args: Any) -> Any:
            result = target(*args)
            self.note(name, args, result)
            return result

        return call

    def note(self, name: str, args: Sequence[Any], result: Any) -> None:
        """Write one call down."""
        if name.startswith("get_") or (name in _CONVERSIONS and all(self.is_constant(a) for a in args)):
            if isinstance(result, Value):
                self.constants[f"k{len(self.constants)}"] = result
                self.names[id(result)] = f"k{len(self.constants) - 1}"
                self.alive.append(result)
            return
        method = f"m{len(self.methods)}"
        self.methods[method] = name
        expression = f"b.{method}({', '.join(self.show(a) for a in args)})"
        results = result if isinstance(result, tuple) else (result,)
        names = []
        for value in results:
            made = f"v{len(self.alive)}"
            names.append(made)
            self.alive.append(value)
            self.names[id(value)] = made
        self.lines.append(f"{', '.join(names)} = {expression}")

    def is_constant(self, argument: Any) -> bool:
        """Whether an argument of a builder call is the same whenever the recording is replayed."""
        return not isinstance(argument, Value) or self.names.get(id(argument)) in self.constants

    def show(self, argument: Any) -> str:
        """An argument of a builder call as source."""
        known = self.names.get(id(argument))
        if known is not None and argument is not None:
            return known
        if isinstance(argument, list | tuple):
            return f"[{', '.join(self.show(a) for a in argument)}]"
        if not isinstance(argument, _PLAIN) and not type(argument).__module__.startswith("triton._C"):
            self.opaque = True
        name = f"k{len(self.constants)}"
        self.constants[name] = argument
        return name

    def fill_tensor(self, value: Any) -> list[str]:
        """What makes the tensor that the call gives back, without a call, as source."""
        ty = intern_type(value.type)
        facts = dict(zip(("shape", "numel", "dtype"), facts_of(ty), strict=True))
        lines = ["made = new(Tensor)", f"made.handle = {self.handle(value)}"]
        for name, fact in {"type": ty, **facts}.items():
            lines.append(f"made.{name} = k{len(self.constants)}")
            self.constants[f"k{len(self.constants)}"] = fact
        return [*lines, "return made"]

    def handle(self, value: Any) -> str:
        """The value of a tensor that the call gives back, as source."""
        known = "None" if value.handle is None else self.names.get(id(value.handle))
        if known is None:
            self.opaque = True
        return str(known)

    def result(self, value: Any) -> str:
        """What the call gives back as source."""
        if isinstance(value, Tensor):
            name = f"k{len(self.constants)}"
            self.constants[name] = intern_type(value.type)
            return f"fast_tensor({self.handle(value)}, {name})"
        if isinstance(value, Tuple):
            return f"Tuple([{', '.join(self.result(v) for v in value)}])"
        if value is not None:
            self.opaque = True
        return "None"

    def replay(self, result: Any) -> Replay | None:
        """The function of (builder, operands...) that does it again; None where something else mattered."""
        last = self.fill_tensor(result) if isinstance(result, Tensor) else [f"return {self.result(result)}"]
        if self.opaque:
            return None
        parameters = ", ".join(["b", *(f"a{i}" for i in range(self.inputs))])
        body = "\n    ".join([*self.lines, *last])
        code = _compile(f"def replay({parameters}):\n    {body}")
        names = tuple([self.methods.get(name, name) for name in code.co_names])
        return cast("Replay", FunctionType(code.replace(co_names=names), {"__name__": __name__, **self.constants}))


@lru_cache(maxsize=1 << 12)
def _compile(source: str) -> CodeType:
    """The code of one function; many recordings differ in the methods that they call alone."""
    (code,) = (part for part in compile(source, "<recording>", "exec").co_consts if isinstance(part, CodeType))
    return code


@dataclass(slots=True)
class Recordings:
    """All recordings, by call and kinds of arguments."""

    semantic: Any
    known: dict[Key, Replay | None] = field(default_factory=dict)
    recording: bool = False

    def call(self, key: Key, perform: Callable[[Sequence[Any]], Any], arguments: Sequence[Any]) -> Any:
        """Do `perform` on the arguments, from a recording where there is one."""
        replay = self.known.get(key)
        if replay is not None:
            return replay(self.semantic.builder, *[a.handle for a in arguments if type(a) is Tensor])
        return perform(arguments) if key in self.known else self.record(key, perform, arguments)

    def record(self, key: Key, perform: Callable[[Sequence[Any]], Any], arguments: Sequence[Any]) -> Any:
        """Do it and write it down."""
        if self.recording:
            return perform(arguments)
        copies = [fast_tensor(copy(a.handle), a.type) if type(a) is Tensor else a for a in arguments]
        inputs = [a.handle for a in copies if type(a) is Tensor]
        builder = self.semantic.builder
        recorder = Recorder(builder, inputs)
        self.semantic.builder = recorder
        self.recording = True
        try:
            result = perform(copies)
        finally:
            self.semantic.builder = builder
            self.recording = False
        self.known[key] = recorder.replay(result)
        return result
