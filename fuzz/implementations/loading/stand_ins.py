"""Stand-ins for names that a third-party file imports and that are not executed.

While the file is being executed they can be decorated with, subclassed, called and used in annotations. A stand-in
knows nothing, so it never takes part in a computation: truth, arithmetic, comparison, iteration, and after loading
also a call, raise StandInError instead of giving a made-up value.
"""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from indexfuzz.implementations.loading.source import SourceError

Execute = Callable[[str], object | None]


class StandInError(SourceError):
    """A stand-in was used as if it were the real thing; the adapter must provide that name."""


class Names:
    """The dotted names of everything that is replaced.

    `provided` maps a dotted name to the object that stands for it. Any other name is offered to `execute`, which
    returns a module it has executed from the project, or None; what is left is an inert StandIn.
    """

    def __init__(self, provided: Mapping[str, object], execute: Execute) -> None:
        self._provided = dict(provided)
        self._execute = execute
        self._inert: dict[str, StandIn] = {}
        self.loading = 0

    def resolve(self, name: str) -> object:
        """Return what stands for a dotted name."""
        if name in self._provided:
            return self._provided[name]
        if name in self._inert:
            return self._inert[name]
        executed = self._execute(name)
        if executed is not None:
            return executed
        return self._inert.setdefault(name, StandIn(name, self))

    def provided_in(self, module: str) -> dict[str, object]:
        """Return the provided names that lie directly in a module."""
        parts = {name: name.rpartition(".") for name in self._provided}
        return {last: self._provided[name] for name, (parent, _, last) in parts.items() if parent == module}


class StandIn:
    """An inert object in place of one dotted name."""

    # Triton refuses kernels that name a function of Python, even in a branch that is left out; but not one of its own.
    __triton_builtin__ = True

    def __init__(self, name: str, names: Names) -> None:
        self.__dict__["_name"] = name
        self.__dict__["_names"] = names

    def __repr__(self) -> str:
        return f"<stand-in for {self._name}>"

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(f"{self!r} has no {attribute}")
        return self._names.resolve(f"{self._name}.{attribute}")

    def __getitem__(self, key: object) -> "StandIn":
        return StandIn(f"{self._name}[...]", self._names)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """While loading: a decorator that changes nothing, or another stand-in. Later: StandInError."""
        if not self._names.loading:
            self._refuse("called")
        if len(args) == 1 and not kwargs and callable(args[0]) and not isinstance(args[0], StandIn):
            return args[0]
        return StandIn(f"{self._name}(...)", self._names)

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type, ...]:
        return ()

    def __or__(self, other: object) -> "StandIn":
        if other is None or isinstance(other, (type, StandIn)) or getattr(other, "__origin__", None) is not None:
            return self  # a union of types in an annotation
        return self._refuse("used in |")

    __ror__ = __or__

    def __eq__(self, other: object) -> bool:
        return self is other if self._names.loading or isinstance(other, StandIn) else self._refuse("compared")

    def __hash__(self) -> int:
        return id(self)

    def __setattr__(self, attribute: str, value: object) -> None:
        self._refuse(f"given an attribute {attribute!r}")

    def _refuse(self, action: str) -> NoReturn:
        raise StandInError(
            f"{self._name} is not loaded, only a stand-in, and was {action}; its adapter must provide it"
        )


def _refusal(action: str) -> Callable[..., NoReturn]:
    def refuse(self: StandIn, *_: object) -> NoReturn:
        self._refuse(action)

    return refuse


_OPERATORS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "lshift", "rshift", "and", "xor")
_ACTIONS = {
    "tested for truth": ("bool",),
    "measured": ("len",),
    "iterated over": ("iter", "next", "contains"),
    "converted to a number": ("int", "float", "complex", "index"),
    "compared": ("lt", "le", "gt", "ge", "ne"),
    "entered as a context": ("enter", "exit"),
    "given an item": ("setitem", "delitem"),
    "used in isinstance": ("instancecheck", "subclasscheck"),
    "used in arithmetic": ("neg", "pos", "abs", "invert", "round", *_OPERATORS, *(f"r{name}" for name in _OPERATORS)),
}
for _action, _methods in _ACTIONS.items():
    for _method in _methods:
        setattr(StandIn, f"__{_method}__", _refusal(_action))
