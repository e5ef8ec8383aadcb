"""Triton's typing rules over the executor's builder.

Kernels keep Triton's own typing, broadcasting and promotion: its TritonSemantic runs unchanged, apart from the few
methods that would build regions of IR or throw away what a checker needs.
"""

from collections.abc import Callable, Sequence
from typing import Any

from triton.language.semantic import TritonSemantic

from indexfuzz.lockstep.triton_api.types import Tensor, unwrap


def _combine_of(region_builder_fn: Any) -> Any:
    """The combine function that a builder of regions is made for."""
    names = region_builder_fn.__code__.co_freevars
    return region_builder_fn.__closure__[names.index("combine_fn")].cell_contents


def _is_unsigned(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype.is_int_unsigned()


def _refuse_mixed(operation: str, operand: Any, wanted: Any) -> None:
    """Refuse what Triton's semantic layer lets pass, and its verifier does not."""
    if operand != wanted:
        raise TypeError(f"{operation} takes an operand of type {wanted} here, not {operand}")


def _announce_signs(method: Callable[..., Any]) -> Callable[..., Any]:
    """An arithmetic method that tells the builder where its operands read as unsigned."""

    def perform(self: Any, a: Any, b: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_unsigned(a) and not _is_unsigned(b):
            return method(self, a, b, *args, **kwargs)
        self.builder.begin_unsigned()
        try:
            return method(self, a, b, *args, **kwargs)
        finally:
            self.builder.end_unsigned()

    return perform


class LockstepSemantic(TritonSemantic):  # type: ignore[misc]
    """Triton's typing rules over the executor's builder."""

    add = _announce_signs(TritonSemantic.add)
    sub = _announce_signs(TritonSemantic.sub)
    mul = _announce_signs(TritonSemantic.mul)

    def reduction(
        self, inputs: Sequence[Any], axis: int | None, region_builder_fn: Callable[..., Any]
    ) -> tuple[Any, ...]:
        """Reduce with the combine function itself instead of a region built from it."""
        if axis is None:
            inputs = tuple(self.reshape(t, [t.numel.value], can_reorder=True) for t in inputs)
            axis = 0
        shape = [int(unwrap(s)) for s in inputs[0].shape]
        handles = self.builder.reduce(inputs, axis, _combine_of(region_builder_fn))
        rest = [s for i, s in enumerate(shape) if i != axis]
        return tuple(self.wrap_tensor(h, t.type.scalar, rest) for h, t in zip(handles, inputs, strict=True))

    def associative_scan(
        self, inputs: Sequence[Any], axis: int, region_builder_fn: Callable[..., Any], reverse: Any
    ) -> tuple[Any, ...]:
        """Scan with the combine function itself instead of a region built from it."""
        shape = [int(unwrap(s)) for s in inputs[0].shape]
        combine = _combine_of(region_builder_fn)
        handles = self.builder.scan(inputs, axis % len(shape), combine, reverse=bool(unwrap(reverse)))
        return tuple(self.wrap_tensor(h, t.type.scalar, shape) for h, t in zip(handles, inputs, strict=True))

    def _has_native_tma(self) -> bool:
        """Descriptors take every element type."""
        return True

    def dot(self, lhs: Any, rhs: Any, acc: Any, *rest: Any) -> Any:
        """A product; TypeError where what it is added to is of another type than the result."""
        made = super().dot(lhs, rhs, acc, *rest)
        if acc is not None:
            _refuse_mixed("tt.dot", acc.type.scalar, made.type.scalar)
        return made

    def atomic_cas(self, ptr: Any, cmp: Any, val: Any, *rest: Any) -> Any:
        """Compare and swap; TypeError where the operands are of another type than what the pointer points to."""
        element = ptr.type.scalar.element_ty
        made = super().atomic_cas(ptr, cmp, val, *rest)
        for operand in (cmp, val):
            _refuse_mixed("tt.atomic_cas", operand.type.scalar, element)
        return made

    def multiple_of(self, x: Any, values: list[int]) -> Any:
        """Check the promise instead of believing it."""
        self.builder.promise("multiple_of", x.handle, values)
        return x

    def max_contiguous(self, x: Any, values: list[int]) -> Any:
        """Check the promise instead of believing it."""
        self.builder.promise("max_contiguous", x.handle, values)
        return x

    def max_constancy(self, x: Any, values: list[int]) -> Any:
        """Check the promise instead of believing it."""
        self.builder.promise("max_constancy", x.handle, values)
        return x
