"""Goals: comparisons of the code under test that have only ever gone one way, and the sizes that may turn them.

Input-to-state: where one operand has always been the same number, and the other has always been one of the case's
sizes, a case with that size at that number, or beside it, takes the other way. Nothing is drawn because of them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from indexfuzz.core.case import Case
from indexfuzz.core.comparison import Comparison
from indexfuzz.generation.aims import LIMITS, Aim

SIZES: Mapping[str, Callable[[Case], int]] = {
    "context": lambda case: max(case.lengths, default=0),
    "max_model_len": lambda case: case.batch.max_model_len,
    "decode": lambda case: len(case.batch.decode),
    "decode_rows": lambda case: case.batch.decode_rows,
    "prefill_rows": lambda case: case.batch.prefill_rows,
    "keys": lambda case: case.batch.keys,
    "tokens": lambda case: case.batch.tokens,
    "head_rows": lambda case: case.batch.tokens * case.model.num_heads,
    "index_topk": lambda case: case.model.index_topk,
    "num_heads": lambda case: case.model.num_heads,
    "block_size": lambda case: case.cache.block_size,
    "pages": lambda case: max((-(-length // case.cache.block_size) for length in case.lengths), default=0),
    "num_blocks": lambda case: case.num_blocks,
}
"""Every size that can be aimed at, as a case has it."""

SAMPLES, FEWEST = 32, 3
"""Cases of which the operands of a comparison are kept, and that it takes to know a size by them."""

FACTORS = (16, 32, 64, 128, 256)
"""Sizes of tiles: what numbers of programs are quotients by."""

Operands = tuple[int, int]
Place = tuple[str, int, str]


@dataclass
class _Sight:
    """What was seen of one place."""

    ends: set[bool] = field(default_factory=set)
    samples: list[tuple[Case, frozenset[Operands]]] = field(default_factory=list)


@dataclass(frozen=True)
class Unturned:
    """A comparison that has always ended the same way: `aims` may lead to the other, `reason` says why none does."""

    file: str
    line: int
    text: str
    holds: bool
    aims: tuple[Aim, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        """Where, what, and what may turn it."""
        sizes = " or ".join(f"{aim.size} {aim.value}" for aim in self.aims)
        why = self.reason or f"may turn at {sizes}"
        return f"{self.file}:{self.line}  {self.text}  always {self.holds}; {why}"


class Goals:
    """The comparisons of a campaign's cases."""

    def __init__(self) -> None:
        self._sights: dict[Place, _Sight] = {}

    def add(self, case: Case, comparisons: Iterable[Comparison]) -> None:
        """Take what the code under test compared in one case."""
        places: dict[Place, set[Operands]] = {}
        for seen in comparisons:
            place = (seen.file, seen.line, seen.text)
            self._sights.setdefault(place, _Sight()).ends.add(seen.holds)
            operands = places.setdefault(place, set())
            if seen.left is not None and seen.right is not None:
                operands.add((seen.left, seen.right))
        for place, operands in places.items():
            sight = self._sights[place]
            if operands and len(sight.ends) == 1 and len(sight.samples) < SAMPLES:
                sight.samples.append((case, frozenset(operands)))

    @property
    def turned(self) -> int:
        """How many places have ended both ways."""
        return sum(len(sight.ends) > 1 for sight in self._sights.values())

    def unturned(self) -> list[Unturned]:
        """Every place that has not, in order of file and line."""
        return [self._explain(place, sight) for place, sight in sorted(self._sights.items()) if len(sight.ends) == 1]

    def _explain(self, place: Place, sight: _Sight) -> Unturned:
        (holds,) = sight.ends
        if not sight.samples:
            return Unturned(*place, holds, reason="no numbers are compared")
        aims = tuple(dict.fromkeys(_aims(sight)))
        if near := tuple(aim for aim in aims if 0 < aim.value <= LIMITS[aim.size]):
            return Unturned(*place, holds, near)
        words = " or ".join(f"{aim.size} {aim.value}" for aim in aims)
        return Unturned(*place, holds, reason=f"no case has {words}" if aims else "no size was seen to move it")


def _aims(sight: _Sight) -> Iterator[Aim]:
    """Sizes that would turn a comparison, be they within what a case affords or not."""
    for moving, fixed in ((0, 1), (1, 0)):
        limits = {pair[fixed] for _, pairs in sight.samples for pair in pairs}
        if len(limits) == 1 and len(sight.samples) >= FEWEST:
            values = [(case, {pair[moving] for pair in pairs}) for case, pairs in sight.samples]
            yield from _leading_to(limits.pop(), values)


def _leading_to(limit: int, values: list[tuple[Case, set[int]]]) -> Iterator[Aim]:
    """Aims at which an operand, given with its cases, would be at a limit: a size, its tiles, or a multiple of it."""
    for name, size in SIZES.items():
        sizes = [size(case) for case, _ in values]
        if _explains(sizes, values):
            yield Aim(name, limit)
        for factor in FACTORS:
            if _explains([-(-own // factor) for own in sizes], values):
                yield Aim(name, limit * factor)
            if _explains([own * factor for own in sizes], values):
                yield Aim(name, -(-limit // factor))


def _explains(guesses: list[int], values: list[tuple[Case, set[int]]]) -> bool:
    """Whether guesses are among the values of an operand in each of its cases; one that never varies says nothing."""
    return len(set(guesses)) > 1 and all(guess in seen for guess, (_, seen) in zip(guesses, values, strict=True))
