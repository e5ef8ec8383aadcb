"""What the builder's operations share: the run that is going on, and how results take over what is known of lanes."""

from typing import TYPE_CHECKING, Any

from indexfuzz.lockstep.dtypes import I1, ScalarType
from indexfuzz.lockstep.source import where
from indexfuzz.lockstep.values import Array, Value, either
from indexfuzz.lockstep.violations import UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Callable

    from indexfuzz.lockstep.run import Run


class Context:
    """The state of a builder.

    run is set while a launch goes on; semantic and call reach back to the language for combine functions.
    """

    run: "Run"
    semantic: Any
    call: "Callable[..., Any]"
    tracks_overflow: bool = True
    tracks_undefined: bool = True
    largest: int = 1 << 21

    def _joined(self, a: Value, b: Value, data: Array, ty: ScalarType | None = None) -> Value:
        return Value(data, ty or a.ty, a.shape, either(a.undefined, b.undefined), either(a.wrapped, b.wrapped))

    def _compared(self, a: Value, b: Value, data: Array) -> Value:
        return Value(data, I1, a.shape, either(a.undefined, b.undefined))

    def unsupported(self, what: str) -> UnsupportedFeature:
        """The error for a missing feature, with the place in the kernel that asks for it."""
        site = where()
        return UnsupportedFeature(f"{site.file}:{site.line}: {what} in {site.function} is not supported by lockstep")
