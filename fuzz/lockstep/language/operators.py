"""Operators, attributes and subscripts of a translated kernel, with the meaning of Triton's code generator."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from indexfuzz.lockstep.language.recording import Recordings, key_of
from indexfuzz.lockstep.tracking.attribution import blame_kernel, blaming_kernel
from indexfuzz.lockstep.tracking.ends import Ends, Place
from indexfuzz.lockstep.triton_api.functions import is_jit
from indexfuzz.lockstep.triton_api.types import BaseValue, Constexpr, Tensor, Tuple, intern_type

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
_FOLDED: Final[dict[tuple[str, int, int], Any]] = {}
"""What operators make of two integers that are known while compiling."""


@dataclass(frozen=True, slots=True)
class BoundJit:
    """A jit function looked up on a value: `x.sum`."""

    owner: Any
    function: Any


def intern_result(result: Any) -> Any:
    """A result whose tensors have interned types."""
    if type(result) is Tensor:
        result.type = intern_type(result.type)
    elif isinstance(result, Tuple):
        for value in result:
            intern_result(value)
    return result


def is_value(x: Any) -> bool:
    """Whether the language knows this as a value; Python's own objects are none."""
    return isinstance(x, BaseValue)


class Operators:
    """What `a + b`, `not a`, `a and b`, `a.b` and `a[b]` do; recordings and semantic layer come from the runtime.

    `ends` takes note of how conditions end, where somebody wants to know.
    """

    semantic: Any
    recordings: Recordings
    ends: Ends | None

    def call(self, fn: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Call what a kernel calls."""
        raise NotImplementedError

    def call_builtin(self, fn: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Call a function of the language."""
        raise NotImplementedError

    def binary(self, name: str, left: Any, right: Any) -> Any:
        """A binary operator or comparison."""
        if type(left) is Tensor or type(right) is Tensor:
            known = self.recordings.known
            # A type that is interned keeps its identity to itself, so this is the key of below, or none at all.
            replay = known.get((name, id(left.type), id(right.type))) if type(left) is type(right) else None
            if replay is None:
                key = name, key_of(left), key_of(right)
                if None in key:
                    return self.apply(name, left, right)
                replay = known.get(key)
                if replay is None:
                    return self.recordings.call(key, lambda args: self.apply(name, *args), (left, right))
            builder = self.semantic.builder
            if type(right) is not Tensor:
                return replay(builder, left.handle)
            if type(left) is not Tensor:
                return replay(builder, right.handle)
            return replay(builder, left.handle, right.handle)
        return self.fold(name, left, right)

    def fold(self, name: str, left: Any, right: Any) -> Any:
        """A binary operator whose operands are known while compiling."""
        key = None
        if type(left) is type(right) is Constexpr and type(left.value) is type(right.value) is int:
            key = name, left.value, right.value
            if key in _FOLDED:
                return _FOLDED[key]
        if not isinstance(left, Constexpr | Tuple) and isinstance(right, Constexpr):
            left = Constexpr(left)
        with blaming_kernel():
            method = getattr(left, FORWARD[name])
        result = self.call(method, [right], {})
        if key is not None:
            _FOLDED[key] = result
        return result

    def compare(self, name: str, left: Any, right: Any, place: Place | None) -> Any:
        """A comparison at a place of the kernel."""
        result = self.binary(name, left, right)
        if self.ends is not None and place is not None and place not in self.ends.complete:
            self.ends.note_comparison(place, result, left, right)
        return result

    def apply(self, name: str, left: Any, right: Any) -> Any:
        """A binary operator of which an operand is a tensor, through the language."""
        if type(left) is Tensor:
            return intern_result(getattr(left, FORWARD[name])(right, _semantic=self.semantic))
        return intern_result(getattr(right, REFLECTED[name])(left, _semantic=self.semantic))

    def unary(self, name: str, operand: Any) -> Any:
        """A unary operator."""
        if type(operand) is Tensor:
            return self.recordings.call(
                (name, key_of(operand)),
                lambda args: intern_result(getattr(args[0], name)(_semantic=self.semantic)),
                (operand,),
            )
        method = getattr(operand, name, None)
        if method is None:
            if name != "__not__":
                raise blame_kernel(TypeError(f"{name} on {type(operand).__name__}"))
            return Constexpr(not operand)
        with blaming_kernel():
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

    def chain(self, links: tuple[tuple[str, Callable[..., tuple[Any, Any]], Place | None], ...]) -> Any:
        """`a < b < c`, each operand evaluated once."""
        left: list[Any] = []

        def link(name: str, operands: Callable[..., tuple[Any, Any]], place: Place | None) -> Callable[[], Any]:
            def evaluate() -> Any:
                a, b = operands(*left)
                left[:] = [b]
                return self.compare(name, a, b, place)

            return evaluate

        return self.boolean("logical_and", tuple(link(*parts) for parts in links))

    def attribute(self, owner: Any, name: str) -> Any:
        """`owner.name`."""
        if type(owner) is Tensor:
            if name == "T":
                return self.semantic.permute(owner, (1, 0))
        elif type(owner) is Constexpr and name not in {"value", "type"}:
            owner = owner.value
        try:
            found = getattr(owner, name)
        except AttributeError as error:
            blame_kernel(error)
            raise
        if is_jit(found) and is_value(owner):
            return BoundJit(owner, found)
        return found

    def subscript(self, owner: Any, index: Any) -> Any:
        """`owner[index]`."""
        if type(owner) is Tensor or is_value(owner):
            return self.call_builtin(type(owner).__getitem__, [owner, index], {})
        with blaming_kernel():
            return owner[index]
