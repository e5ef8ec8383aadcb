"""Decisions: how a rehearsed case ends conditions, how far each is from another end, and what its operands may be."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from indexfuzz.core.comparison import Comparison, Place
from indexfuzz.generation.conditions import Condition, Operand, operands_of
from indexfuzz.generation.correspondence import ODD, explaining
from indexfuzz.generation.measures import Measures, as_number

Pair = tuple[int, int]


@dataclass(frozen=True)
class Decisions:
    """What a case decides at each place: how it ends, the operands, and which end settles a joined condition."""

    ends: Mapping[Place, frozenset[bool]]
    pairs: Mapping[Place, tuple[Pair, ...]]
    settling: Mapping[Place, bool | None]
    inside: frozenset[Place] = frozenset()
    """Those of kernels."""

    @classmethod
    def of(cls, comparisons: Iterable[Comparison]) -> "Decisions":
        """By place, in the order of the source."""
        ends, pairs, settling = dict[Place, set[bool]](), dict[Place, list[Pair]](), dict[Place, bool | None]()
        inside = set[Place]()
        for one in comparisons:
            place = one.place
            ends.setdefault(place, set()).add(one.holds)
            left, right = as_number(one.left), as_number(one.right)
            pairs.setdefault(place, []).extend([(left, right)] if left is not None and right is not None else [])
            settling[place] = one.settles
            inside.update([place] if one.inside else [])
        return cls(
            {place: frozenset(each) for place, each in ends.items()},
            {place: tuple(each) for place, each in pairs.items()},
            settling,
            frozenset(inside),
        )

    def miss(self, place: Place, *, wanted: bool) -> float:
        """How far a place is from ending so: 0 where it does, from 1 to 2 where it does not, 2 where nothing comes."""
        if wanted in self.ends.get(place, ()):
            return 0.0
        gap = self.gap(place)
        return 2.0 if place not in self.ends else 1 + math.log2(1 + min(abs(gap), 1 << 60)) / 64

    def gap(self, place: Place) -> int:
        """The difference of the operands where they are closest; 0 where there are none."""
        return min((right - left for left, right in self.pairs.get(place, ())), key=abs, default=0)


def explain_operands(
    place: Place, samples: Sequence[tuple[Measures, tuple[Pair, ...]]], *, wanted: bool
) -> Condition | None:
    """What the operands may be by some cases; None where that says nothing of either."""
    sides, odd = [], len(samples) // ODD
    for i, written in enumerate(operands_of(place[2])):
        values = [(measures, {pair[i] for pair in pairs}) for measures, pairs in samples]
        guesses = () if written.number is not None else explaining(values, place[2], written.form, odd=odd)
        number = written.number if written.number is not None else min(values[-1][1])
        sides.append(Operand(guesses=tuple(guesses)) if guesses else Operand(number))
    left, right = sides
    return Condition(place[2], left, right, wanted, place) if left.guesses or right.guesses else None
