"""Addresses in words: every tensor that a stage takes or returns has names for its axes."""

import pytest
import torch

from indexfuzz.stages.base import Call
from indexfuzz.stages.places import AXES, Places, axes_of
from indexfuzz.stages.table import EVERY

IN_THE_CACHE = {"cache_values", "cache_scales"}
"""Outputs that are no tensors of their own."""


@pytest.mark.parametrize("stage", EVERY, ids=lambda stage: stage.name)
def test_axes_of_outputs_are_called_as_the_stage_calls_them(stage):
    for output in stage.outputs:
        if output.name not in IN_THE_CACHE:
            assert AXES[output.name][: len(output.axes)] == output.axes


def test_an_element_of_what_is_returned():
    slots = torch.zeros(3, 4, dtype=torch.int32)
    places = Places(Call({}, {}, returns=("slots",)), {"slots": slots})
    assert places(slots.data_ptr() + 4 * 6) == "token 1, entry 2 of slots"


def test_axes_of_a_tensor_that_nobody_knows_are_numbers():
    assert axes_of("nobody's", torch.zeros(1, 2)) == ("axis 0", "axis 1")
