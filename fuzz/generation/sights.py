"""What was seen of one place of the code under test: how it ended, in which cases, and what its operands may be."""

from dataclasses import dataclass, field

from indexfuzz.core.case import Case
from indexfuzz.core.comparison import Place
from indexfuzz.generation.conditions import Condition, Operand, Written, is_comparison, operands_of
from indexfuzz.generation.correspondence import ODD, best_of, explaining, times_missed
from indexfuzz.generation.guess import Guess
from indexfuzz.generation.measures import Measures

SAMPLES = 32
"""Cases of which the operands of a comparison are kept."""

NEAREST = 2
"""Cases that are kept of those that came closest to the other end of a comparison, or have shown it."""

RARE = 32
"""Cases that must have shown an end for it to need no more: what they reach may depend on what nobody compares."""

RARE_INSIDE = 8
"""The same of a condition inside a kernel: there are many, and few of them lead to a path of its own."""

SURE = 8
"""Cases after which what operands seem to be is likely what they are."""

COST = 4
"""Cases that have shown an end, for each search for more of them: most of what never turns, nothing turns."""

Operands = tuple[int, int]


@dataclass(frozen=True)
class Sample:
    """A case with its measures, and the operands that it gave to a comparison."""

    case: Case
    measures: Measures
    operands: frozenset[Operands]

    @property
    def gap(self) -> int:
        """How far the operands were from each other where they were closest."""
        return min((right - left for left, right in self.operands), key=abs, default=0)


class Side:
    """What one operand was in some cases, and what it may be."""

    def __init__(self, text: str, written: Written, *, inside: bool) -> None:
        self._text, self._written, self._inside = text, written, inside
        self.values: list[tuple[Measures, set[int]]] = []
        self._guesses: list[Guess] | None = None

    def add(self, measures: Measures, seen: set[int]) -> None:
        """Take one more case: guesses that it and others refute are dropped."""
        self.values = [*self.values[1 - SAMPLES :], (measures, seen)]
        if self._guesses and any(guess.of(measures) not in seen for guess in self._guesses):
            self._guesses = best_of(
                {guess: times_missed(guess, self.values, self._odd) for guess in self._guesses}, self._odd
            )
        self._guesses = self._guesses or None

    @property
    def _odd(self) -> int:
        return 0 if self._inside else len(self.values) // ODD

    @property
    def guesses(self) -> list[Guess]:
        """All that holds in each case, or of launchers in nearly each; none of a number in the source."""
        if self._written.number is not None:
            return []
        if self._guesses is None:
            form, odd = self._written.form, self._odd
            self._guesses = explaining(self.values, self._text, form, of_lanes=self._inside, odd=odd)
        return self._guesses

    @property
    def sure(self) -> list[Guess]:
        """Those that hold in every case."""
        return [guess for guess in self.guesses if not times_missed(guess, self.values, 0)]

    @property
    def operand(self) -> Operand:
        """The number that the source says, or the guesses, or else the number that it always was."""
        numbers = set[int]().union(*(seen for _, seen in self.values))
        if self._written.number is not None or (len(numbers) == 1 and not self.guesses):
            return Operand(self._written.number if self._written.number is not None else numbers.pop())
        return Operand(guesses=tuple(self.guesses))


@dataclass
class Sight:
    """What was seen of one place, whose condition is `text`."""

    text: str
    cases: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})
    sides: tuple[Side, Side] = field(init=False)
    nearest: list[Sample] = field(default_factory=list)
    shown: list[Sample] = field(default_factory=list)
    """Cases that have shown the rarer end."""
    before: dict[Place, bool] | None = None
    """How places that stand before it in its file have ended in every case that came here."""
    tries: int = 0
    """Cases that were steered here since something was new."""
    aimed: int = 0
    """Searches that were for it, in all."""
    inside: bool = False
    """Whether it stands in a kernel."""
    gaps: frozenset[int] = frozenset()
    """How far apart the operands were, of two cases in which that differed if there are."""

    def __post_init__(self) -> None:
        left, right = operands_of(self.text)
        self.sides = Side(self.text, left, inside=self.inside), Side(self.text, right, inside=self.inside)

    @property
    def rarer(self) -> bool:
        """The end that fewer cases have shown."""
        return self.cases[True] < self.cases[False]

    @property
    def enough(self) -> int:
        """Cases that must have shown an end for it to need no more."""
        return RARE_INSIDE if self.inside else RARE

    @property
    def moves(self) -> bool:
        """Whether some case has moved the operands nearer to each other or further away: a search has a direction."""
        return len(self.gaps) > 1

    @property
    def is_fixed(self) -> bool:
        """Whether no case is likely to turn it: always the same numbers, or a measure and the same one, moved."""
        return self.numbers is not None or self.tied is not None

    @property
    def numbers(self) -> tuple[int, int] | None:
        """What both operands have always been, where that was one number each."""
        left, right = (set[int]().union(*(seen for _, seen in side.values)) for side in self.sides)
        if len(self.sides[0].values) < SURE or len(left) != 1 or len(right) != 1:
            return None
        return min(left), min(right)

    @property
    def tied(self) -> tuple[Guess, Guess] | None:
        """What both operands may be, where they are always equally far apart."""
        left, right = self.sides
        if min(len(left.values), len(right.values)) < SURE:
            return None
        pairs = ((a, b) for a in left.sure for b in right.sure if a.name == b.name)
        return next(((a, b) for a, b in pairs if {a.form, b.form} <= {"", "plus"}), None)

    def add(self, sample: Sample, ends: frozenset[bool], before: dict[Place, bool]) -> None:
        """Take a case that came here, with how it has ended what stands before."""
        for end in ends:
            self.cases[end] += 1
        if self.before is None:
            self.before = dict(before)
        else:
            self.before = {place: end for place, end in self.before.items() if before.get(place) is end}
        if sample.operands:
            self.gaps = self.gaps if self.moves else self.gaps | {sample.gap}
            for i, side in enumerate(self.sides):
                side.add(sample.measures, {pair[i] for pair in sample.operands})

    def keep(self, sample: Sample, ends: frozenset[bool]) -> None:
        """Keep a case that came closer to the rarer end than others, or has shown it."""
        if self.rarer in ends:
            if self.cases[self.rarer] <= self.enough:
                self.shown = [*self.shown, sample][-NEAREST:]
                self.tries = 0
        elif not self.shown:
            closest = sorted([*self.nearest, sample], key=lambda one: abs(one.gap))[:NEAREST]
            if not self.nearest or 2 * abs(closest[0].gap) <= abs(self.nearest[0].gap) > 0:
                self.tries = 0
            self.nearest = closest

    def condition(self, place: Place, *, wanted: bool) -> Condition | None:
        """What tells of a case whether it would end so, here; None where nobody knows what is compared."""
        if not is_comparison(self.text):
            return None
        left, right = (side.operand for side in self.sides)
        return Condition(self.text, left, right, wanted, place) if left.is_known and right.is_known else None
