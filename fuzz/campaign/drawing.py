"""The stream of cases of a campaign, cut into chunks: each is drawn from a seed of its own, whoever draws it."""

from collections.abc import Iterator

from indexfuzz.campaign.settings import Settings
from indexfuzz.core.case import Case
from indexfuzz.core.rng import derive
from indexfuzz.generation.strategies import cases
from indexfuzz.generation.stream import draw

CHUNK = 50
"""Shapes that are drawn together: enough for Hypothesis to vary them, few enough to draw without a pause."""


def drawn_cases(wanted: Settings) -> Iterator[Case]:
    """The cases of a campaign, inside the contract; each shape with as many sets of values as its device asks for.

    Ends where the strategy has no more cases.
    """
    ran: set[str] = set()
    chunk = 0
    while True:
        known = len(ran)
        for shape in draw_chunk(wanted, chunk):
            for case in _with_other_values(wanted.subject.narrowed(shape), wanted.subject.facts.values_per_shape):
                if case.id not in ran:
                    ran.add(case.id)
                    yield case
        if len(ran) == known:
            return
        chunk += 1


def draw_chunk(wanted: Settings, chunk: int) -> list[Case]:
    """The shapes of one chunk, as they are drawn."""
    index, of = wanted.shard
    facts = wanted.subject.facts
    strategy = cases(preset=wanted.preset, values=wanted.values, formats=facts.formats, constants=facts.constants)
    return draw(strategy, derive(wanted.seed, f"shard {index}/{of} chunk {chunk}"), CHUNK)


def _with_other_values(case: Case, count: int) -> Iterator[Case]:
    """The case, and the same with other values until there are `count`."""
    yield case
    for number in range(1, count):
        yield case.replace(values={"seed": derive(case.values.seed, f"variant {number}")})
