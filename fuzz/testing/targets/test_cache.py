"""Fuzz targets: the writer of the paged cache and its readers, everything else left to the reference."""

from hypothesis import given

from indexfuzz.core.case import Case
from indexfuzz.core.stage_names import GATHER, K_QUANT_CACHE
from indexfuzz.generation.strategies import cases
from indexfuzz.testing.target import check, target


@target
@given(case=cases())
def test_insert_and_gather(case: Case) -> None:
    """Keys go into the cache and come out again."""
    check(case, only=frozenset({K_QUANT_CACHE, GATHER}))
