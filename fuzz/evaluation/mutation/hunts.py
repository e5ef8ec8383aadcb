"""Make guarded mutants and hunt each of them, some at a time, so that a run that was stopped goes on where it was."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from indexfuzz.evaluation.mutation import guarded, hunt
from indexfuzz.evaluation.mutation.guarded import Recipe
from indexfuzz.evaluation.mutation.hunt import Budget, Hunt
from indexfuzz.evaluation.mutation.kept import KeptHunts
from indexfuzz.evaluation.processes import Crew


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

    A mutant is hunted as soon as it is made: some take a hundred times longer to make than others. `tell` hears of
    each hunt as it ends, and how many have.
    """
    ended = {(n, each): known for n in numbers for each in drawings if kept and (known := kept.get(n, each))}
    lock = threading.Lock()

    def take(result: Hunt) -> None:
        data = result.as_data()
        with lock:
            ended[result.prey.guarded.number, result.prey.drawing] = data
            if kept:
                kept.put(data)
            tell(len(ended), result)

    def make_and_hunt(number: int) -> None:
        left = [each for each in drawings if (number, each) not in ended]
        if left and (made := makers.examine(number)):
            for each in left:
                take(hunters.examine(hunt.Prey(made, each)))

    with (
        Crew(guarded.Maker, guarded.give_up, recipe, workers) as makers,
        Crew(hunt.Hunter, hunt.give_up, budget, workers) as hunters,
        ThreadPoolExecutor(workers) as threads,
    ):
        list(threads.map(make_and_hunt, numbers))
    return [ended[number, each] for number in numbers for each in drawings if (number, each) in ended]
