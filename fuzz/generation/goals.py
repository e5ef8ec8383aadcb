"""Goals: what the code under test has decided one way only, or hardly ever otherwise, and cases that come close to it.

A comparison tells how far away it was, and which measure of the case moves it (input-to-state correspondence, after
Aschermann et al., "REDQUEEN", 2019): where one operand has always been the same number and the other a measure, its
multiple, quotient or remainder, or a product of two, a case with that measure elsewhere ends the other way. Steering
takes the cases that came closest there, and cases that have done something rare further.

Of conditions that are joined, the later ones are only seen where the first ones held. What has ended the same way in
every case that came to a place is what it takes to come there, and a goal says so.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from indexfuzz.core.case import Case
from indexfuzz.core.comparison import Comparison, Place
from indexfuzz.generation.conditions import TOO_LARGE, Aim, Condition
from indexfuzz.generation.correspondence import FEWEST, explaining
from indexfuzz.generation.decisions import Decisions
from indexfuzz.generation.guess import Guess, leading_to
from indexfuzz.generation.measures import OPTIONS, Measures, measure, word_of
from indexfuzz.generation.sights import COST, Sample, Sight

PATIENCE = 16
"""Cases that are steered to a goal without any coming closer, until it is given up."""

STILL_PATIENCE = 4
"""The same, where no case has moved what is compared, though a measure may."""

BLIND_PATIENCE = 1
"""The same, where nothing is known to move it, either: drawing may turn it, a search has no direction."""

MOST_GOALS = 10
"""Goals of one plan, each for one search: for every case of a chunk."""

AT_ONCE = 3
"""Searches of one plan for one goal."""

MOST_INSIDE = 1
"""Goals of one plan that stand in kernels, as long as there are others: these can be rehearsed."""

MOST_KEPT = 24
"""Conditions that lead to a goal."""


Ends = Mapping[tuple[Place, bool], int]
"""How many cases have ended the condition at a place in each way."""


@dataclass(frozen=True)
class Goal:
    """A case to start from, which came close to a comparison's other end or has shown something rare.

    `turn` tells whether a case would end it so, and `keep` what it takes to come there, as far as that is known. Where
    nothing is known to turn it, `gap` says how far away the case was. The comparison stands at `place` and shall end
    as `wanted`; `leading` are the places, and their ends, that lead there, `known` all that any case has come to, and
    `rare` those ends that more cases should show.
    """

    case: Case
    turn: Condition | None = None
    keep: tuple[Condition, ...] = ()
    gap: int = 0
    place: Place = ("", 0, "")
    wanted: bool = True
    leading: tuple[tuple[Place, bool], ...] = ()
    known: frozenset[Place] = frozenset()
    rare: frozenset[tuple[Place, bool]] = frozenset()

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All that shall hold."""
        return (*self.keep, self.turn) if self.turn else self.keep


@dataclass(frozen=True)
class Unturned:
    """A comparison that has always ended the same way: `aims` may lead to the other, `reason` says why none does.

    It stands `inside` a kernel, or in a launcher or caller.
    """

    file: str
    line: int
    text: str
    holds: bool
    aims: tuple[Aim, ...] = ()
    reason: str = ""
    tries: int = 0
    inside: bool = False

    def __str__(self) -> str:
        """Where, what, what may turn it, and how many cases were steered there in vain."""
        sizes = " or ".join(f"{name} {value}" for name, value in self.aims)
        why = self.reason or f"may turn at {sizes}"
        words = "1 case was" if self.tries == 1 else f"{self.tries} cases were"
        tried = f"; {words} steered there" if self.tries else ""
        return f"{self.file}:{self.line}  {self.text}  always {self.holds}; {why}{tried}"


class Goals:
    """The comparisons of a campaign's cases, in the order in which they are added."""

    def __init__(self) -> None:
        self._sights: dict[Place, Sight] = {}
        self._settling: dict[Place, bool] = {}

    def add(self, case: Case, comparisons: Iterable[Comparison]) -> None:
        """Take what the code under test compared in one case. Sessions are counted, but no place to start from."""
        seen, measures = Decisions.of(comparisons), measure(case)
        self._settling |= {place: end for place, end in seen.settling.items() if end is not None}
        before: dict[str, dict[Place, bool]] = {}
        for place, ends in seen.ends.items():
            sight = self._sights.setdefault(place, Sight(place[2], inside=place in seen.inside))
            earlier = before.setdefault(place[0], {})
            sample = Sample(case, measures, frozenset(seen.pairs[place]))
            sight.add(sample, ends, earlier)
            if not case.session.steps:
                sight.keep(sample, ends)
            if len(ends) == 1:
                (earlier[place],) = ends

    def join(self, others: "Goals") -> None:
        """Count how others have seen places end, too."""
        for place, other in others._sights.items():  # noqa: SLF001 - of the same class
            if (sight := self._sights.setdefault(place, other)) is not other:
                sight.cases = {end: cases + other.cases[end] for end, cases in sight.cases.items()}

    def turned(self, *, inside: bool = False) -> int:
        """How many places have ended both ways, of launchers and callers or else inside kernels."""
        return sum(all(sight.cases.values()) for sight in self._sights.values() if sight.inside is inside)

    def shown(self) -> Ends:
        """How often each end was shown of launchers and callers."""
        sights = self._sights.items()
        return {(place, end): n for place, sight in sights if not sight.inside for end, n in sight.cases.items()}

    def unturned(self) -> list[Unturned]:
        """Every place that has not, in order of file and line."""
        sights = sorted(self._sights.items())
        return [
            replace(_explain(place, seen), tries=seen.tries, inside=seen.inside)
            for place, seen in sights
            if not all(seen.cases.values())
        ]

    def plan(self) -> tuple[Goal, ...]:
        """What to steer the next cases to, one each: what least was spent on comes first, then what few cases reach."""
        waiting = {place: sight for place, sight in self._sights.items() if self._is_open(place, sight)}
        made, times, known = dict[Place, list[Goal]](), Counter[Place](), frozenset(self._sights)
        rare = frozenset((place, sight.rarer) for place, sight in waiting.items())
        searches = Counter[Hashable]()
        for place, sight in waiting.items():
            searches[_twins(place, sight)] += sight.aimed
        goals: list[Goal] = []
        while waiting and len(goals) < MOST_GOALS:
            place = min(waiting, key=partial(self._turn_of, goals=goals, searches=searches))
            sight = waiting[place]
            options = made[place] if place in made else made.setdefault(place, list(self._goals(place, known, rare)))
            if options:
                goals.append(options[sight.aimed % len(options)])
                sight.tries, sight.aimed = sight.tries + 1, sight.aimed + 1
                searches[_twins(place, sight)] += 1
            times[place] += 1
            if not options or times[place] == AT_ONCE or not self._is_open(place, sight):
                del waiting[place]
        return tuple(goals)

    def _turn_of(
        self, place: Place, *, goals: Sequence[Goal], searches: Mapping[Hashable, int]
    ) -> tuple[bool, int, int, Place]:
        """What comes first is that on which the least was spent, by cases that have shown its end or by searches.

        Every other time it is what stands where the fewest cases have come: conditions behind others are known last.
        Goals that a plan has count, too: many places ask for the same thing.
        """
        sight, inside = self._sights[place], sum(self._sights[goal.place].inside for goal in goals)
        alike = sum(goal.place[2] == place[2] for goal in goals)
        is_late = sight.inside and inside >= MOST_INSIDE
        spent = COST * alike + max(sight.cases[sight.rarer], COST * searches[_twins(place, sight)])
        came = sum(sight.cases.values())
        return is_late, *((came, spent) if len(goals) % 2 else (spent, came)), place

    def _is_open(self, place: Place, sight: Sight) -> bool:
        if (
            sight.cases[sight.rarer] >= sight.enough
            or self._settling.get(place) is sight.rarer
            or sight.tries >= PATIENCE
        ):
            return False
        if sight.shown:
            return True
        if sight.inside:  # nothing can be tried there, so something has to be known
            return not sight.is_fixed and any(side.guesses for side in sight.sides)
        is_known = any(side.guesses for side in sight.sides)
        return sight.moves or sight.tries < (STILL_PATIENCE if is_known else BLIND_PATIENCE)

    def _goals(self, place: Place, known: frozenset[Place], rare: frozenset[tuple[Place, bool]]) -> Iterator[Goal]:
        sight = self._sights[place]
        leading = tuple(islice(self._leading(sight), MOST_KEPT))
        conditions = (self._sights[before].condition(before, wanted=end) for before, end in leading)
        keep = tuple(condition for condition in conditions if condition is not None)
        turn = sight.condition(place, wanted=sight.rarer)
        for base in sight.shown or sight.nearest:
            gap = 0 if sight.shown else base.gap
            yield Goal(base.case, turn, keep, gap, place, sight.rarer, leading, known, rare)

    def _leading(self, sight: Sight) -> Iterator[tuple[Place, bool]]:
        """How what stands before a place has always ended where a case came to it, though not always in all."""
        for place, end in reversed((sight.before or {}).items()):
            if all(self._sights[place].cases.values()):
                yield place, end


def _twins(place: Place, sight: Sight) -> Hashable:
    """What a place has in common with others of its file that have ended as it has in every case: they are one goal."""
    return (place[0], *sight.cases.values(), *(sample.case.id for sample in sight.shown)) if sight.shown else place


def _explain(place: Place, sight: Sight) -> Unturned:
    holds = not sight.rarer
    if not sight.sides[0].values:
        return Unturned(*place, holds, reason="no numbers are compared")
    aims = tuple(dict.fromkeys(_known_aims(sight)))
    if numbers := sight.numbers:
        left, right = (word_of(number) or number for number in numbers)
        return Unturned(*place, holds, reason=f"{left} is compared with {right} in every case")
    if tied := sight.tied:
        return Unturned(*place, holds, reason="{} is compared with {}".format(*tied))
    if near := tuple(aim for aim in aims if 0 < aim[1] <= TOO_LARGE):
        return Unturned(*place, holds, near)
    words = " or ".join(f"{name} {value}" for name, value in aims)
    return Unturned(*place, holds, reason=f"no case has {words}" if aims else "no size was seen to move it")


def _known_aims(sight: Sight) -> Iterator[Aim]:
    """What would turn a comparison with a number, where enough was seen to be sure what moves the other operand."""
    for moving, fixed in ((0, 1), (1, 0)):
        limits = set().union(*(seen for _, seen in sight.sides[fixed].values))
        values = sight.sides[moving].values
        if len(limits) == 1 and len(values) >= FEWEST:
            limit = limits.pop()
            for guess in explaining(values, sight.text, of_lanes=sight.inside):
                if _vary(guess, values):
                    yield from leading_to(guess, limit, values[-1][0])[:1]


def _vary(guess: Guess, values: list[tuple[Measures, set[int]]]) -> bool:
    """Whether all that makes up a guess was not the same number every time; such says nothing."""
    names = (guess.name, guess.second or guess.name)
    varies = all(len({measures[name] for measures, _ in values}) > 1 for name in names)
    return varies and guess.form != "modulo" and guess.name not in OPTIONS
