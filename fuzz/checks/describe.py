"""Words for wrong tensors: values with their bits, which part of an output is wrong, how wrong and right values relate.

Only failures come here, so that clarity goes before speed.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SHOWN = 4
"""Lines that are named one by one."""

MOST_LINES = 1024
"""Wrong lines up to which it is tried where each of them comes from."""

PLACES = 8
"""Elements of a line that are compared first."""

_FACTOR = re.compile(r"every wrong value is (\S+) times the right one$")
_ALL = re.compile(r"the wrong ones are all (\S+)$")
_WORDS_OF_NUMBERS = re.compile(r"(?:exactly |0x[0-9a-f]+ \()?([-+.\w]+)")

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(tensor: Tensor) -> Tensor:
    """The tensor's bits as integers of the same width and shape."""
    return tensor.contiguous().view(_INTEGERS[tensor.element_size()])


def text(value: Tensor) -> str:
    """One element with its bits, such as ``1.5 (0x3fc00000)``; integers as they are."""
    if not value.is_floating_point():
        return str(int(value))
    width = value.element_size()
    pattern = int(bits(value.reshape(1))[0]) & ((1 << 8 * width) - 1)
    return f"{float(value.float() if width < 4 else value):.9g} (0x{pattern:0{2 * width}x})"


def default_axes(tensor: Tensor) -> tuple[str, ...]:
    """Names for the axes of a tensor of which nothing is known but its rank."""
    return {1: ("element",), 2: ("row", "column")}.get(tensor.dim(), tuple(f"axis {i} at" for i in range(tensor.dim())))


def place(index: Sequence[int], axes: Sequence[str]) -> str:
    """An element by the names of its axes, such as ``token 3, dim 17``."""
    return ", ".join(f"{axis} {i}" for axis, i in zip(axes, index, strict=True))


def first(wrong: Tensor) -> tuple[int, ...]:
    """Index of the first True."""
    return tuple(wrong.nonzero()[0].tolist())


def is_unchanged(got: Tensor, before: Tensor, wrong: Tensor) -> bool:
    """Whether all wrong elements have the bits that they had before anything was written."""
    return bool((bits(got) == bits(before))[wrong].all())


def share(wrong: Tensor) -> str:
    """How many of how many."""
    return f"{int(wrong.sum())} of {wrong.numel()} wrong"


def extent(wrong: Tensor, axes: Sequence[str], judged: Tensor | None = None) -> str:
    """Which part of what was judged (all by default) is wrong, such as ``only dims >= 64``; "" without a pattern."""
    judged = torch.ones_like(wrong) if judged is None else judged | wrong
    found = []
    for axis, name in enumerate(axes):
        others = [i for i in range(wrong.dim()) if i != axis]
        bad = wrong.any(dim=others) if others else wrong
        possible = judged.any(dim=others) if others else judged
        words = _interval(bad.tolist(), possible.tolist(), name)
        if words:
            found.append(words)
    return "only " + " and ".join(found) if found else ""


def _interval(bad: list[bool], possible: list[bool], name: str) -> str:
    candidates = [i for i, p in enumerate(possible) if p]
    hit = [i for i in candidates if bad[i]]
    if len(hit) == len(candidates):
        return ""
    low, high = hit[0], hit[-1]
    if len(hit) == 1:
        return f"{name} {low}"
    if hit == [i for i in candidates if low <= i <= high]:
        if high == candidates[-1]:
            return f"{name}s >= {low}"
        return f"{name}s < {high + 1}" if low == candidates[0] else f"{name}s {low} to {high}"
    for step in (2, 4, 8, 16, 32, 64):
        if len({i % step for i in hit}) == 1 and hit == [i for i in candidates if i % step == low % step]:
            return f"{name}s {low % step} modulo {step}"
    return f"{len(hit)} of {len(candidates)} {name}s"


def relation(got: Tensor, want: Tensor, wrong: Tensor, axes: Sequence[str]) -> str:
    """How wrong values relate to right ones, such as ``every wrong value is 2 times the right one``; "" if unclear.

    ``got`` and ``want`` are numbers of one shape whose axes are ``axes``; ``wrong`` says which elements count.
    """
    g, w = got.double(), want.double()
    for recognise in (_special, _factor, _shifted, _constant, _moved):
        words = recognise(g, w, wrong, axes)
        if words:
            return words
    return ""


def contradicts(hint: str, got: str, want: str) -> bool:
    """Whether one wrong element, in the words of a finding, is none of those that a hint of other elements speaks of.

    A relation that is not of a value alone, or a value that words do not tell, contradicts nothing.
    """
    value, right = _number(got), _number(want)
    if value is None or right is None:
        return False
    if said := _FACTOR.search(hint):
        return not math.isclose(value, float(said[1]) * right, rel_tol=1e-3)
    if said := _ALL.search(hint):
        claimed = 0.0 if said[1] == "zero" else float(said[1])
        return not (math.isclose(value, claimed, rel_tol=1e-6) or (math.isnan(value) and math.isnan(claimed)))
    return False


def _number(words: str) -> float | None:
    said = _WORDS_OF_NUMBERS.match(words)
    try:
        return float(said[1]) if said else None
    except ValueError:
        return None


@dataclass(frozen=True)
class Summary:
    """What is to be said of wrong values as a whole; `hint` is how they relate to the right ones, if it is clear."""

    share: str
    extent: str
    hint: str

    def __str__(self) -> str:
        """All of it in one phrase."""
        return "; ".join(part for part in (self.share, self.extent, self.hint) if part)


def summary(got: Tensor, want: Tensor, wrong: Tensor, axes: Sequence[str], judged: Tensor | None = None) -> Summary:
    """Share, extent and relation."""
    counted = wrong if judged is None else wrong[judged]
    return Summary(share(counted), extent(wrong, axes, judged), relation(got, want, wrong, axes))


def _special(got: Tensor, want: Tensor, wrong: Tensor, axes: Sequence[str]) -> str:
    del want, axes
    values = got[wrong]
    if len(values) == 1:
        return ""
    names: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
        ("zero", lambda x: x == 0),
        ("NaN", torch.isnan),
        ("-inf", lambda x: x == float("-inf")),
        ("inf", lambda x: x == float("inf")),
    )
    for name, test in names:
        if bool(test(values).all()):
            return f"the wrong ones are all {name}"
    return ""


def _constant(got: Tensor, want: Tensor, wrong: Tensor, axes: Sequence[str]) -> str:
    del want, axes
    values = got[wrong]
    if len(values) > 2 and bool((values == values[0]).all()):
        return f"the wrong ones are all {float(values[0]):.9g}"
    return ""


def _factor(got: Tensor, want: Tensor, wrong: Tensor, axes: Sequence[str]) -> str:
    del axes
    g, w = got[wrong], want[wrong]
    nonzero = w != 0
    if not bool(nonzero.any()) or bool((g[~nonzero] != 0).any()):
        return ""
    ratio = g[nonzero] / w[nonzero]
    middle = float(ratio.median())
    if not bool(torch.isfinite(ratio).all()) or float((ratio - middle).abs().max()) > 1e-5 * abs(middle):
        return ""
    if abs(middle + 1) < 1e-5:
        return "every wrong value has the wrong sign"
    if abs(middle - 1) < 1e-3:
        return ""
    if len(ratio) == 1 and abs(middle) not in (0.25, 0.5, 2.0, 4.0):
        return ""
    return f"every wrong value is {middle:.6g} times the right one"


def _shifted(got: Tensor, want: Tensor, wrong: Tensor, axes: Sequence[str]) -> str:
    """Each wrong element is what belongs one further along one axis; at its end nothing does."""
    for axis, name in enumerate(axes):
        size = got.shape[axis]
        for step, neighbour in ((1, "before"), (-1, "after")):
            if size < 2:
                continue
            end = 0 if step == 1 else size - 1
            counted = wrong.clone()
            counted.select(axis, end).zero_()
            if int(counted.sum()) > 1 and _same(got[counted], want.roll(step, axis)[counted]):
                but = f" but {name} {end}" if bool(wrong.select(axis, end).any()) else ""
                return f"each{but} holds what belongs to the {name} {neighbour} it"
    return ""


def _moved(got: Tensor, want: Tensor, wrong: Tensor, axes: Sequence[str]) -> str:
    """Whole lines that belong elsewhere, or were shuffled within themselves."""
    for axis, name in enumerate(axes):
        if len(axes) < 2 or wrong.select(axis, 0).numel() < 2:
            continue
        lines = wrong.movedim(axis, 0).flatten(1).any(1).nonzero().flatten().tolist()
        if len(lines) > MOST_LINES:
            continue
        found = list(_sources(got, want, lines, axis))
        if len(found) == len(lines):
            pairs = [f"{name} {i} is {name} {j} of the reference" for i, j in zip(lines, found, strict=True)]
            return ", ".join(pairs[:SHOWN]) + (" and so on" if len(pairs) > SHOWN else "")
    g, w = got[wrong], want[wrong]
    if len(g) > 2 and bool(torch.isfinite(g).all()) and _same(g.sort().values, w.sort().values):
        return "the right values in wrong places"
    return ""


def _sources(got: Tensor, want: Tensor, lines: Sequence[int], axis: int) -> Iterator[int]:
    """For each line, in order, which line of the reference it is, up to the first that is none.

    Of many lines of the reference, those are looked at whole that agree in a few places.
    """
    reference = want.movedim(axis, 0).flatten(1)
    places = range(0, reference.shape[1], -(-reference.shape[1] // PLACES))
    for i in lines:
        line = got.select(axis, i).flatten()
        if not bool((line != line[0]).any()):
            return
        left = torch.arange(len(reference), device=line.device)
        left = left[left != i]
        for place in places:
            left = left[_near(line[place], reference[left, place])]
        left = left[_near(line, reference[left]).all(1)]
        if not len(left):
            return
        yield int(left[0])


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(_near(a, b).all())


def _near(a: Tensor, b: Tensor) -> Tensor:
    """Where they are equal up to what a different order of summation changes."""
    both_nan = torch.isnan(a) & torch.isnan(b)
    return (a == b) | both_nan | ((a - b).abs() <= 1e-4 * b.abs())
