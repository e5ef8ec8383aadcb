"""Goals: what the code under test has decided one way only, or hardly ever otherwise, and cases that come close to it.

A comparison tells how far away it was, and which measure of the case moves it (input-to-state correspondence, after
Aschermann et al., "REDQUEEN", 2019): where one operand has always been the same number and the other a measure, its
multiple, quotient or remainder, or a product of two, a case with that measure elsewhere ends the other way. Steering
takes the cases that came closest there, and cases that have done something rare further.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from indexfuzz.core.case import Case
from indexfuzz.core.comparison import Comparison
from indexfuzz.generation.correspondence import FEWEST, Guess, explaining, leading_to
from indexfuzz.generation.measures import measure

SAMPLES = 32
"""Cases of which the operands of a comparison are kept."""

NEAREST = 2
"""Cases that are kept of those that came closest to the other end of a comparison, or have shown it."""

RARE = 32
"""Cases that must have shown an end for it to need no more."""

PATIENCE = 6
"""Plans that have a goal without any case coming closer, until it is given up."""

MOST_GOALS, MOST_AIMS = 48, 16
"""Goals of one plan, and measures to move for one of them."""

TOO_LARGE = 1 << 15
"""No measure is brought to more: no case affords it."""

Operands = tuple[int, int]
Place = tuple[str, int, str]
Aim = tuple[str, int]
"""A measure, and the value to bring it to."""


@dataclass(frozen=True)
class Goal:
    """A case to start from: with one of the aims it may end a comparison the other way.

    Where no measure is known to move it, `gap` says how far away it was. A case that has done something rare has
    neither.
    """

    case: Case
    aims: tuple[Aim, ...] = ()
    gap: int = 0


@dataclass(frozen=True)
class Sample:
    """A case with its measures, and the operands that it gave to a comparison."""

    case: Case
    measures: dict[str, int]
    operands: frozenset[Operands]

    @property
    def gap(self) -> int:
        """How far the operands were from each other where they were closest."""
        return min((right - left for left, right in self.operands), key=abs, default=0)


@dataclass
class _Sight:
    """What was seen of one place."""

    cases: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})
    samples: list[Sample] = field(default_factory=list)
    nearest: list[Sample] = field(default_factory=list)
    shown: list[Case] = field(default_factory=list)
    """Cases that have shown the rarer end."""
    planned: int = 0
    guesses: list[list[Guess]] = field(default_factory=list)
    """What each operand may be, after the samples."""

    @property
    def rarer(self) -> bool:
        """The end that fewer cases have shown."""
        return self.cases[True] < self.cases[False]


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
        sizes = " or ".join(f"{name} {value}" for name, value in self.aims)
        why = self.reason or f"may turn at {sizes}"
        return f"{self.file}:{self.line}  {self.text}  always {self.holds}; {why}"


class Goals:
    """The comparisons of a campaign's cases, in the order of the stream."""

    def __init__(self) -> None:
        self._sights: dict[Place, _Sight] = {}

    def add(self, case: Case, comparisons: Iterable[Comparison]) -> None:
        """Take what the code under test compared in one case. Sessions are counted, but no place to start from."""
        places: dict[Place, set[Operands]] = {}
        ends: dict[Place, set[bool]] = {}
        for seen in comparisons:
            place = (seen.file, seen.line, seen.text)
            ends.setdefault(place, set()).add(seen.holds)
            operands = places.setdefault(place, set())
            if seen.left is not None and seen.right is not None:
                operands.add((seen.left, seen.right))
        measures = measure(case) if places else {}
        for place, operands in places.items():
            sight = self._sights.setdefault(place, _Sight())
            for end in ends[place]:
                sight.cases[end] += 1
            if not case.session.steps:
                _keep(sight, Sample(case, measures, frozenset(operands)), ends[place])

    @property
    def turned(self) -> int:
        """How many places have ended both ways."""
        return sum(all(sight.cases.values()) for sight in self._sights.values())

    def unturned(self) -> list[Unturned]:
        """Every place that has not, in order of file and line."""
        return [_explain(place, seen) for place, seen in sorted(self._sights.items()) if not all(seen.cases.values())]

    def plan(self) -> tuple[Goal, ...]:
        """What to steer the next cases to: what was planned the least comes first, then what few cases reach."""
        open_goals = [
            ((sight.planned, sum(sight.cases.values()), place), sight)
            for place, sight in self._sights.items()
            if sight.cases[sight.rarer] < RARE and sight.planned < PATIENCE
        ]
        goals: list[Goal] = []
        for (_, _, place), sight in sorted(open_goals, key=lambda found: found[0]):
            sight.planned += 1
            goals += _goals(place[2], sight)
            if len(goals) >= MOST_GOALS:
                break
        return tuple(goals)


def _keep(sight: _Sight, sample: Sample, ends: set[bool]) -> None:
    """Keep a case that came closer to the rarer end than others, or has shown it."""
    if len(sight.samples) < SAMPLES and sample.operands:
        sight.samples.append(sample)
        sight.guesses.clear()
    if sight.rarer in ends:
        if sight.cases[sight.rarer] <= RARE:
            sight.shown = [*sight.shown, sample.case][-NEAREST:]
            sight.planned = 0
    elif not sight.shown:
        closest = sorted([*sight.nearest, sample], key=lambda one: abs(one.gap))[:NEAREST]
        if not sight.nearest or abs(closest[0].gap) < abs(sight.nearest[0].gap):
            sight.planned = 0
        sight.nearest = closest


def _goals(text: str, sight: _Sight) -> Iterator[Goal]:
    if sight.shown:
        yield from map(Goal, sight.shown)
        return
    if not sight.guesses:
        sight.guesses = [explaining(_values(sight.samples, side), text) for side in (0, 1)]
    for base in sight.nearest:
        aims = [
            aim
            for pair in sorted(base.operands)
            for moving in (0, 1)
            for guess in sight.guesses[moving]
            for aim in leading_to(guess, pair[1 - moving], base.measures)
            if 0 <= aim[1] <= TOO_LARGE
        ]
        yield Goal(base.case, tuple(dict.fromkeys(aims))[:MOST_AIMS], base.gap)


def _values(samples: list[Sample], side: int) -> list[tuple[dict[str, int], set[int]]]:
    return [(sample.measures, {pair[side] for pair in sample.operands}) for sample in samples]


def _explain(place: Place, sight: _Sight) -> Unturned:
    holds = not sight.rarer
    if not sight.samples:
        return Unturned(*place, holds, reason="no numbers are compared")
    aims = tuple(dict.fromkeys(_known_aims(place[2], sight.samples)))
    if near := tuple(aim for aim in aims if 0 < aim[1] <= TOO_LARGE):
        return Unturned(*place, holds, near)
    words = " or ".join(f"{name} {value}" for name, value in aims)
    return Unturned(*place, holds, reason=f"no case has {words}" if aims else "no size was seen to move it")


def _known_aims(text: str, samples: list[Sample]) -> Iterator[Aim]:
    """What would turn a comparison with a number, where enough was seen to be sure what moves the other operand."""
    for moving, fixed in ((0, 1), (1, 0)):
        limits = {pair[fixed] for sample in samples for pair in sample.operands}
        values = _values(samples, moving)
        if len(limits) == 1 and len(samples) >= FEWEST:
            limit = limits.pop()
            for guess in explaining(values, text):
                if _vary(guess, values):
                    yield from leading_to(guess, limit, samples[-1].measures)[:1]


def _vary(guess: Guess, values: list[tuple[dict[str, int], set[int]]]) -> bool:
    """Whether all that makes up a guess was not the same number every time; such says nothing."""
    names = (guess.name, guess.second or guess.name)
    return all(len({measures[name] for measures, _ in values}) > 1 for name in names) and guess.form != "modulo"
