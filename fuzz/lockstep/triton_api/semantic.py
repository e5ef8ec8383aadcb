"""Triton's typing rules over the executor's builder.

Kernels keep Triton's own typing, broadcasting and promotion: its TritonSemantic runs unchanged, apart from the few
methods that would build regions of IR or throw away what a checker needs.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from triton.language.semantic import TritonSemantic

from indexfuzz.lockstep.triton_api.types import Tensor, unwrap


class LockstepSemantic(TritonSemantic):  # type: ignore[misc]
    """Triton's typing rules over the executor's builder."""

    def add(self, input: Any, other: Any, sanitize_overflow: bool) -> Any:  # noqa: A002, FBT001
        """Addition that tells the builder how the operands read."""
        with self._signs(input, other):
            return super().add(input, other, sanitize_overflow)

    def sub(self, input: Any, other: Any, sanitize_overflow: bool) -> Any:  # noqa: A002, FBT001
        """Subtraction that tells the builder how the operands read."""
        with self._signs(input, other):
            return super().sub(input, other, sanitize_overflow)

    def mul(self, input: Any, other: Any, sanitize_overflow: bool) -> Any:  # noqa: A002, FBT001
        """Multiplication that tells the builder how the operands read."""
        with self._signs(input, other):
            return super().mul(input, other, sanitize_overflow)

    @contextmanager
    def _signs(self, a: Any, b: Any) -> Iterator[None]:
        if not _is_unsigned(a) and not _is_unsigned(b):
            yield
            return
        self.builder.read_unsigned(True)  # noqa: FBT003
        try:
            yield
        finally:
            self.builder.read_unsigned(False)  # noqa: FBT003

    def reduction(
        self, inputs: Sequence[Any], axis: int | None, region_builder_fn: Callable[..., Any]
    ) -> tuple[Any, ...]:
        """Reduce with the combine function itself instead of a region built from it."""
        if axis is None:
            inputs = tuple(self.reshape(t, [t.numel.value], can_reorder=True) for t in inputs)
            axis = 0
        shape = [int(unwrap(s)) for s in inputs[0].shape]
        combine = inspect.getclosurevars(region_builder_fn).nonlocals["combine_fn"]
        handles = self.builder.reduce(inputs, axis, combine)
        rest = [s for i, s in enumerate(shape) if i != axis]
        return tuple(self.wrap_tensor(h, t.type.scalar, rest) for h, t in zip(handles, inputs, strict=True))

    def associative_scan(
        self, inputs: Sequence[Any], axis: int, region_builder_fn: Callable[..., Any], reverse: Any
    ) -> tuple[Any, ...]:
        """Scan with the combine function itself instead of a region built from it."""
        shape = [int(unwrap(s)) for s in inputs[0].shape]
        combine = inspect.getclosurevars(region_builder_fn).nonlocals["combine_fn"]
        handles = self.builder.scan(inputs, axis % len(shape), combine, reverse=bool(unwrap(reverse)))
        return tuple(self.wrap_tensor(h, t.type.scalar, shape) for h, t in zip(handles, inputs, strict=True))

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


def _is_unsigned(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype.is_int_unsigned()
