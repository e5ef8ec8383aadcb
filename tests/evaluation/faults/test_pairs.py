"""Faults in pairs: two that hide each other from end to end are both reported; of two in one stage, each in its turn.

vLLM #44850 was such a pair: a mistake in what is written, and one in what is read, that nobody saw together.
"""

from collections.abc import Iterator

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.generation.stream import stream_cases
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults import load_faults, plant
from indexfuzz.oracles.differential import run

ACROSS = (
    ("mxfp4-halves-swapped-by-writer", "mxfp4-halves-swapped-by-reader"),
    ("ue8m0-bytes-reversed-by-writer", "ue8m0-bytes-reversed-by-reader"),
    ("layout-flat-writer", "layout-interleaved-reader"),
    ("scale-not-ue8m0", "weights-bf16"),
)
"""Faults of different stages, that of what runs first in front."""

WITHIN = (
    ("slots-read-as-int32", "layout-flat-writer"),
    ("table-read-as-int32", "page-size-stale"),
    ("lens-read-as-int32", "causal-next-n"),
)
"""Faults of one stage: the second must still be reported when the first is mended."""

CASES = 300


def findings_of(faults: tuple[str, ...], cases: Iterator[Case]) -> Iterator[Finding]:
    """What cases show of the kernels with some faults, but nothing that the right kernels show."""
    kernels, device = plant(faults), LockstepDevice()
    for case in cases:
        yield from run(case, kernels, device).findings


def drawn() -> Iterator[Case]:
    stream = stream_cases(5, LockstepDevice().formats)
    return (next(stream) for _ in range(CASES))


def is_reported(fault: str, findings: Iterator[Finding]) -> bool:
    return any(load_faults()[fault].is_blamed_by(found) for found in findings)


@pytest.mark.parametrize("pair", ACROSS, ids="+".join)
def test_faults_that_hide_each_other_are_both_reported(pair: tuple[str, str]) -> None:
    for fault in pair:
        assert is_reported(fault, findings_of(pair, drawn()))


@pytest.mark.parametrize("pair", WITHIN, ids="+".join)
def test_of_two_in_one_stage_the_second_shows_once_the_first_is_mended(pair: tuple[str, str]) -> None:
    first, second = pair
    assert is_reported(first, findings_of(pair, drawn()))
    assert is_reported(second, findings_of((second,), drawn()))


def test_right_kernels_report_neither() -> None:
    device, cases = LockstepDevice(), drawn()
    assert not [found for _ in range(8) for found in run(next(cases), builtin(), device).findings]
