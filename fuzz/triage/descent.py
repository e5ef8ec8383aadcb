"""Make numbers low and sequences short, as far as a question says yes, in few questions."""

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")

RUNS = 32
"""Runs that a sequence is cut into at most, to be left out one by one."""


def lower(value: int, least: int, take: Callable[[int], bool]) -> int:
    """The lowest number that was taken, or `value`.

    Asks for the least number, then goes down by powers of two, so that a number taken for its remainder keeps it.
    Where all numbers from some bound on are taken, the result is that bound, after O(log(value - least)) questions.
    """
    if value > least and take(least):
        return least
    step = 1 << max(value - least, 1).bit_length() - 1
    while step:
        if value - step > least and take(value - step):
            value -= step
        else:
            step //= 2
    return value


def leave_out(items: Sequence[Item], take: Callable[[Sequence[Item]], bool]) -> Sequence[Item]:
    """What is left of a sequence once all that can be left out is: the end, the start, then runs between.

    Where k items are needed, that is O((k + 1) log n) questions. Where k is above RUNS, so many runs are tried and no
    single items, and some that are not needed may stay.
    """
    length = lower(len(items), 0, lambda length: take(items[:length]))
    items = first = items[:length]
    length = lower(length, 0, lambda length: take(first[len(first) - length :]))
    items = first[len(first) - length :]
    stride = len(items) + 1
    while (finer := -(-len(items) // RUNS)) < stride:
        stride = finer
        items = _leave_out_runs(items, stride, take)
    return items


def _leave_out_runs(items: Sequence[Item], stride: int, take: Callable[[Sequence[Item]], bool]) -> Sequence[Item]:
    """The sequence without runs of at least `stride` items, each as long as can be found by doubling and halving."""
    start = 0
    while start < len(items):
        run, grows = stride, True
        while start < len(items) and run >= stride:
            shorter = (*items[:start], *items[start + run :])
            if take(shorter):
                items = shorter
            else:
                grows = False
            run = 2 * run if grows else run // 2
        start += stride
    return items
