"""Scouting: many fresh cases are rehearsed, which takes a twentieth of running one, and those that lead somewhere kept.

A path behind joined conditions is seen by one case in a hundred or a thousand. Such a case is run for the stages alone
that take the path; others stand near a goal, and a search sets out from the nearest.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from indexfuzz.core.case import Case
from indexfuzz.core.comparison import Comparison, Place
from indexfuzz.generation.decisions import Decisions
from indexfuzz.generation.goals import Ends, Goal, Goals
from indexfuzz.generation.sights import RARE

Rehearse = Callable[[Case, Collection[str]], Mapping[str, Sequence[Comparison]]]
"""What the launchers of some stages would compare in a case, of all of them where none are named."""

SCOUTS = 40
"""Fresh cases of a chunk that are rehearsed."""

MOST_TAKEN = 10
"""Of which so many are run, at most."""


@dataclass(frozen=True)
class Scout:
    """A case that was rehearsed, and what the launcher of each stage compares in it."""

    case: Case
    compared: Mapping[str, Sequence[Comparison]]

    def decides(self, stages: Sequence[str]) -> Decisions:
        """What it decides in some stages."""
        return Decisions.of(one for stage in stages for one in self.compared.get(stage, ()))


def send_out(cases: Iterable[Case], rehearse: Rehearse, stages: Collection[str] = ()) -> list[Scout]:
    """Rehearse some stages of cases, all of them where none are named."""
    return [Scout(case, rehearse(case, stages)) for case in cases]


def first_goals(scouts: Iterable[Scout]) -> tuple[Goal, ...]:
    """What to steer to where no case has been run yet, or none that is known of."""
    goals = Goals()
    for scout in scouts:
        goals.add(scout.case, [one for compared in scout.compared.values() for one in compared])
    return goals.plan()


def take_rare(scouts: Sequence[Scout], shown: Ends) -> list[tuple[Case, frozenset[str]]]:
    """Cases that end a condition as few have, each with the stages in which they do: the rarest first, no end twice.

    `shown` says how many cases have been run that show an end. What settles a joined condition leads nowhere.
    """
    found = dict[tuple[Place, bool], list[tuple[int, str]]]()
    for number, scout in enumerate(scouts):
        for stage in sorted(scout.compared):
            seen = scout.decides([stage])
            for place, ends in seen.ends.items():
                for end in ends - {seen.settling[place]}:
                    found.setdefault((place, end), []).append((number, stage))
    rare = sorted((shown.get(end, 0), len(where), end) for end, where in found.items() if shown.get(end, 0) < RARE)
    taken = dict[int, set[str]]()
    for _, _, which in rare:
        where = found[which]
        number, stage = next((one for one in where if one[0] in taken), where[0])
        if number in taken or len(taken) < MOST_TAKEN:
            taken.setdefault(number, set()).add(stage)
    return [(scouts[number].case, frozenset(stages)) for number, stages in taken.items()]
