"""Fuzz targets: whole steps of the indexer, of any shape that its contract allows.

Run them with `pytest fuzz`; --fuzz-impl, --fuzz-device, --fuzz-fault, --fuzz-shard and --fuzz-seconds say what and how
long, --hypothesis-profile how thoroughly.
"""

from hypothesis import given

from indexfuzz.core.case import Case
from indexfuzz.generation.strategies import cases
from indexfuzz.testing.target import check, target


@target
@given(case=cases())
def test_whole_step(case: Case) -> None:
    """Every stage, each fed with what the one before it left."""
    check(case)


@target
@given(case=cases(values=("exact",)))
def test_exact_values(case: Case) -> None:
    """Values for which every legal order of evaluation gives the same bits."""
    check(case)
