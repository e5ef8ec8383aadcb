"""Fuzz targets: the indexers of published models."""

from hypothesis import given

from indexfuzz.core.case import Case
from indexfuzz.core.presets import PRESETS
from indexfuzz.generation.strategies import cases
from indexfuzz.testing.target import check, target


@target
@given(case=cases(preset=PRESETS["deepseek-v3.2"]))
def test_deepseek_v32(case: Case) -> None:
    """64 heads, NeoX rotation of the first dims, UE8M0 scales."""
    check(case)


@target
@given(case=cases(preset=PRESETS["deepseek-v4"]))
def test_deepseek_v4(case: Case) -> None:
    """As V3.2, but the last dims are rotated."""
    check(case)


@target
@given(case=cases(preset=PRESETS["glm-5"]))
def test_glm_5(case: Case) -> None:
    """32 heads, interleaved rotation."""
    check(case)
