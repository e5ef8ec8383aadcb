"""Hints to the compiler that are not true: it may use them to vectorise, and then reads other addresses."""

from collections.abc import Sequence

import numpy as np

from indexfuzz.lockstep.tracking.run import Run
from indexfuzz.lockstep.values.arrays import Array, Mask
from indexfuzz.lockstep.values.value import Value


def check_promise(run: Run, name: str, value: Value, factors: Sequence[int]) -> None:
    """Check tl.multiple_of, tl.max_contiguous or tl.max_constancy, one factor for each axis of the block."""
    run.launch.is_closed &= value.allocation is None
    full = np.broadcast_to(value.addresses(), value.full().shape).astype(np.int64)
    step = getattr(value.ty.element, "itemsize", 1)
    for axis, factor in enumerate(factors):
        if factor <= 1:
            continue
        bad = _CHECKS[name](full, axis + 1 if value.shape else None, factor, step)
        if value.undefined is not None:
            bad = bad & ~value.undefined
        if bad.any():
            run.report("promise", value, bad, f"tl.{name}({factor}) on axis {axis} is not true of this value")
            return


def check_assumption(run: Run, condition: Value) -> None:
    """Check tl.assume."""
    bad: Mask = ~condition.data
    if condition.undefined is not None:
        bad = bad & ~condition.undefined
    if bad.any():
        run.report("promise", condition, bad, "tl.assume of something that is not true")


def _multiple(data: Array, axis: int | None, factor: int, step: int) -> Mask:
    """A multiple is promised of the first element of every run of consecutive ones."""
    wrong: Mask = data % factor != 0
    if axis is not None:
        follows = np.diff(data, axis=axis, prepend=np.take(data, [0], axis=axis) - 2 * step) == step
        wrong &= ~follows
    return wrong


def _contiguous(data: Array, axis: int | None, factor: int, step: int) -> Mask:
    return _groups(data, axis, factor, step)


def _constant(data: Array, axis: int | None, factor: int, _step: int) -> Mask:
    return _groups(data, axis, factor, 0)


def _groups(data: Array, axis: int | None, factor: int, step: int) -> Mask:
    if axis is None or data.shape[axis] == 1:
        return np.zeros(data.shape, np.bool_)
    differences = np.diff(data, axis=axis, prepend=np.take(data, [0], axis=axis))
    place = np.arange(data.shape[axis]).reshape(-1, *([1] * (data.ndim - axis - 1)))
    return np.asarray((differences != step) & (place % factor != 0))


_CHECKS = {"multiple_of": _multiple, "max_contiguous": _contiguous, "max_constancy": _constant}
