"""Cases as a campaign draws them, one after the other, without running them."""

from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.internal.conjecture import providers
from hypothesis.strategies import SearchStrategy

from indexfuzz.core.case import Case
from indexfuzz.core.rng import derive
from indexfuzz.generation.strategies import cases

CHUNK = 100

READS_MODULES = "_get_local_constants"
"""What in Hypothesis reads all modules of a process for constants in their texts, where its release has that."""


def stream_cases(from_seed: int, formats: tuple[str, ...]) -> Iterator[Case]:
    """An endless stream of cases, determined by the seed."""
    return stream_from(cases(formats=formats), from_seed)


def stream_from(strategy: SearchStrategy[Case], from_seed: int) -> Iterator[Case]:
    """An endless stream of what a strategy draws, determined by the seed."""
    chunk = 0
    while True:
        yield from draw(strategy, derive(from_seed, f"drawn {chunk}"), CHUNK)
        chunk += 1


def draw(strategy: SearchStrategy[Case], from_seed: int, count: int) -> list[Case]:
    """So many cases, or fewer where the strategy has no more; the first is the simplest that there is."""
    found: list[Case] = []
    quiet = settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=False,
        verbosity=Verbosity.quiet,
        phases=(Phase.generate,),
        suppress_health_check=tuple(HealthCheck),
        print_blob=False,
    )

    def keep(case: Case) -> None:
        found.append(case)

    with _reading_no_modules():
        seed(from_seed)(quiet(given(strategy)(keep)))()
    return found


@contextmanager
def _reading_no_modules() -> Iterator[None]:
    """Leave out what takes each process a second, and files in the current folder: cases are made of bytes alone."""
    names = vars(providers)
    plain = names.get(READS_MODULES)
    if plain is None:
        yield
        return
    names[READS_MODULES] = names["Constants"]
    try:
        yield
    finally:
        names[READS_MODULES] = plain
