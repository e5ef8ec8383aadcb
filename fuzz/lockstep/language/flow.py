"""Assignments, branches and loops of a translated kernel, with the meaning of Triton's code generator."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from indexfuzz.lockstep.language.operators import intern_result
from indexfuzz.lockstep.operations.builder import Builder
from indexfuzz.lockstep.tracking.attribution import blame_kernel
from indexfuzz.lockstep.tracking.divergence import Divergence, split_by
from indexfuzz.lockstep.tracking.ends import Ends, Place
from indexfuzz.lockstep.tracking.rounds import note_round
from indexfuzz.lockstep.tracking.violations import KernelError
from indexfuzz.lockstep.triton_api.functions import RETURNS_CONSTEXPR
from indexfuzz.lockstep.triton_api.types import (
    INT1,
    RANGE,
    STATIC_RANGE,
    BaseValue,
    Constexpr,
    Dtype,
    Tensor,
    Tuple,
    fast_tensor,
    fields_of,
    intern_type,
    named_tuple,
    unwrap,
)
from indexfuzz.lockstep.values.arrays import Array
from indexfuzz.lockstep.values.dtypes import I1
from indexfuzz.lockstep.values.value import Value

_CONDITIONS: Final = {bool, int, type(None)}
_FARTHEST: Final = 2**63 - 1
_MOST_ROUNDS: Final = 1 << 24
"""How often a loop may run: more would take minutes in lockstep, and comes of a wrong bound, not of a tensor's size."""


class Flow:
    """What statements do. The builder, the semantic layer and who takes note of ends come from the runtime."""

    builder: Builder
    semantic: Any
    ends: Ends | None

    def doubt(self) -> None:
        """Ask Triton whether it compiles the kernel."""
        raise NotImplementedError

    def assign(self, value: Any) -> Any:
        """What a variable holds after an assignment: a tensor, unless the value is none of the language's."""
        if type(value) is Tensor:
            return value
        if isinstance(value, Tuple):
            values = [Constexpr(None) if unwrap(v) is None else self.assign(v) for v in value]
            return named_tuple(values, fields_of(value))
        value = unwrap(value)
        if value is None or isinstance(value, BaseValue | Dtype | Tuple):
            return value
        return intern_result(self.semantic.to_tensor(value))

    def give_back(self, value: Any) -> Any:
        """What a call gives back, at the end of the function."""
        self.builder.run.note_return()
        return self.convert_result(value)

    def convert_result(self, value: Any) -> Any:
        """A result as this release of Triton gives it back."""
        if RETURNS_CONSTEXPR or type(value) is Tensor:
            return value
        if isinstance(value, Tuple):
            return named_tuple([self.convert_result(v) for v in value], fields_of(value))
        if isinstance(value, Constexpr | int | float):
            return None if unwrap(value) is None else intern_result(self.semantic.to_tensor(value))
        return value

    def branch(self, test: Any, place: Place | None) -> bool:
        """Decide an `if`, or whether a `while` goes on; raises Divergence where programs disagree.

        `place` is that of a test which compares nothing.
        """
        if self.ends is not None and place is not None and place not in self.ends.complete:
            self.ends.note_truth(place, condition_of(test))
        condition = condition_of(test)
        if not isinstance(condition, Tensor):
            known = unwrap(condition)
            if type(known) not in _CONDITIONS:
                raise blame_kernel(TypeError(f"a condition must be a bool, an int or None, not {type(known).__name__}"))
            if self.builder.run.launch.coverage is not None:
                self.builder.note_mask("branch", np.full(1, bool(known)))
            return bool(known)
        if condition.type.is_block():
            if condition.numel.value != 1:
                raise blame_kernel(TypeError("the truth of a block with more than one element is ambiguous"))
            condition = self.semantic.unsplat(condition)
        handle: Value = self.semantic.cast(condition, INT1).handle
        return self.builder.decide(handle)

    def again(self, test: Any, place: Place | None, loop: Place | None) -> bool:
        """Decide whether a `while` goes on, `loop` being its own place; raises Divergence where programs disagree."""
        note_round()
        goes_on = self.branch(test, place)
        launch = self.builder.run.launch
        (launch.entered if goes_on else launch.idle).add(loop)
        return goes_on

    def choose(self, test: Any, then: Callable[[], Any], otherwise: Callable[[], Any], place: Place | None) -> Any:
        """`a if test else b`."""
        chosen = then if self.branch(test, place) else otherwise
        value = chosen()
        if isinstance(test, Tensor):
            self.doubt()
        return intern_result(self.semantic.to_tensor(value)) if isinstance(test, Tensor) else value

    def iterate(self, iterator: Any, args: list[Any], kwargs: dict[str, Any], place: Place | None) -> Iterator[Any]:
        """The values of a loop variable; raises Divergence where programs run different numbers of times."""
        iterator = unwrap(iterator)
        if iterator is STATIC_RANGE:
            static = iterator(*args, **kwargs)
            return (Constexpr(i) for i in range(static.start.value, static.end.value, static.step.value))
        if iterator is RANGE:
            dynamic = iterator(*args, **kwargs)
            bounds = (dynamic.start, dynamic.end, dynamic.step)
        elif iterator is range:
            first = args[0] if len(args) > 1 else Constexpr(0)
            bounds = (first, args[1] if len(args) > 1 else args[0], args[2] if len(args) > 2 else Constexpr(1))
        else:
            raise blame_kernel(TypeError("a kernel loops over range, tl.range or tl.static_range only"))
        return self._count(*bounds, place)

    def _count(self, first: Any, last: Any, step: Any, place: Place | None) -> Iterator[Any]:
        semantic = self.semantic
        varies = any(isinstance(b, Tensor) for b in (first, last, step))
        lower, upper, stride = (semantic.to_tensor(unwrap(b)) for b in (first, last, step))
        for bound in (lower, upper, stride):
            if not bound.dtype.is_int() or bound.type.is_block():
                raise blame_kernel(TypeError(f"a loop's bounds and step are integer scalars, not {bound.type}"))
        ty = semantic.integer_promote_impl(semantic.integer_promote_impl(lower.dtype, upper.dtype), stride.dtype)
        a, b, s = (_integers(x, ty) for x in (lower, upper, stride))
        builder = self.builder
        for bound in (lower, upper, stride):
            builder.check_used(bound.handle, "a loop bound")
        if (s == 0).any():
            raise blame_kernel(ValueError("a loop's step is zero"))
        trips = _count_trips(a, b, s)
        for bound in (lower, upper, stride):
            if bound.handle.undefined is not None:
                trips = np.where(bound.handle.undefined, 0, trips)
        if (most := int(trips.max())) > _MOST_ROUNDS:
            raise blame_kernel(
                OverflowError(f"a loop from {a.min()} to {b.max()} would run {most:,} times"), KernelError
            )
        builder.note_mask("loop", trips > 0 if varies else None)
        launch = builder.run.launch
        (launch.entered if trips.any() else launch.idle).add(place)
        if self.ends is not None and place is not None and place not in self.ends.complete and (s > 0).all():
            self.ends.note_lanes(place, trips > 0, a, b)
        if trips.size > 1 and (trips != trips[0]).any():
            raise Divergence(split_by(trips))
        container = ty.to_ir(builder)
        ty = intern_type(ty)
        a_value, s_value = a.astype(container.container), s.astype(container.container)
        for i in range(int(trips[0])):
            note_round()
            yield fast_tensor(Value(a_value + s_value * container.container.type(i), container), ty)


def condition_of(test: Any) -> Any:
    """What decides a branch or a loop, without what the language wraps around it for the compiler."""
    return test if isinstance(test, Tensor) else getattr(test, "condition", test)


def _count_trips(first: Array, last: Array, step: Array) -> Array:
    """How often a loop runs in each program; in integers of Python where all programs have the same bounds."""
    if first.size == last.size == step.size == 1:
        a, b, s = first.item(), last.item(), step.item()
        if abs(b - a) <= _FARTHEST:
            return np.array([len(range(a, b, s))])
    return np.maximum(np.where(step > 0, -((first - last) // step), -((last - first) // -step)), 0)


def _integers(x: Any, ty: Any) -> Array:
    data: Array = x.handle.data
    if x.dtype.is_int_unsigned() and x.handle.ty is not I1:
        data = data.view(x.handle.ty.unsigned)
    if ty.is_int_unsigned() and ty.int_bitwidth < 64:
        return np.asarray(data.astype(np.int64) & ((1 << ty.int_bitwidth) - 1))
    return data.astype(np.int64)
