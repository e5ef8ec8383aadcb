"""Make guarded mutants and hunt each of them, some at a time, so that a run that was stopped goes on where it was."""

from collections.abc import Callable, Sequence
from typing import Any

from indexfuzz.evaluation.mutation import guarded, hunt
from indexfuzz.evaluation.mutation.guarded import Recipe
from indexfuzz.evaluation.mutation.hunt import Budget, Hunt
from indexfuzz.evaluation.mutation.kept import KeptHunts
from indexfuzz.evaluation.processes import examine_all

AT_ONCE = 20
"""Mutants for each process that are made before they are hunted, where hunts are kept."""


def hunt_all(
    numbers: Sequence[int],
    recipe: Recipe,
    budget: Budget,
    *,
    drawings: Sequence[str] = hunt.DRAWINGS,
    workers: int = 1,
    kept: KeptHunts | None = None,
    tell: Callable[[int, Hunt], None] = lambda _count, _hunt: None,
) -> list[dict[str, Any]]:
    """Every hunt as plain data, in order of the mutants' numbers; those that are kept are not repeated.

    `tell` hears of each as it ends, and how many have.
    """
    ended = {(n, each): known for n in numbers for each in drawings if kept and (known := kept.get(n, each))}

    def take(result: Hunt) -> None:
        data = result.as_data()
        ended[result.prey.guarded.number, result.prey.drawing] = data
        if kept:
            kept.put(data)
        tell(len(ended), result)

    left = [number for number in numbers if any((number, each) not in ended for each in drawings)]
    size = AT_ONCE * workers if kept else max(len(left), 1)
    for first in range(0, len(left), size):
        some = left[first : first + size]
        made = examine_all(some, guarded.Maker, guarded.give_up, recipe, workers=workers)
        prey = [hunt.Prey(found, each) for found in made if found for each in drawings]
        prey = [one for one in prey if (one.guarded.number, one.drawing) not in ended]
        examine_all(prey, hunt.Hunter, hunt.give_up, budget, workers=workers, on_result=take)
    return [ended[number, each] for number in numbers for each in drawings if (number, each) in ended]
