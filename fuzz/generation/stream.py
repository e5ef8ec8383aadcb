"""Cases as a campaign draws them, one after the other, without running them."""

from collections.abc import Iterator

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from indexfuzz.core.case import Case
from indexfuzz.core.rng import derive
from indexfuzz.generation.strategies import cases

CHUNK = 100


def drawn(from_seed: int, formats: tuple[str, ...]) -> Iterator[Case]:
    """An endless stream of cases, determined by the seed."""
    chunk = 0
    while True:
        yield from _chunk(derive(from_seed, f"drawn {chunk}"), formats)
        chunk += 1


def _chunk(chunk_seed: int, formats: tuple[str, ...]) -> list[Case]:
    found: list[Case] = []
    quiet = settings(
        max_examples=CHUNK,
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

    seed(chunk_seed)(quiet(given(cases(formats=formats))(keep)))()
    return found
