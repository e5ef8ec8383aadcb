"""The integer inputs of a case are those of its step."""

from itertools import islice

import torch

from indexfuzz.generation.stream import stream_cases
from indexfuzz.samples.integers import integer_inputs
from indexfuzz.samples.materialise import materialise
from indexfuzz.samples.selections import place_requests


def test_they_hold_what_those_of_the_step_hold():
    for case in islice(stream_cases(11, ("e4m3fn",)), 40):
        step, found = materialise(case), integer_inputs(case)
        place_requests(step)
        integers = {name: t for name, t in step.tensors.items() if t.dtype in (torch.int32, torch.int64)}
        assert not found  # they are made as they are asked for
        found["token_to_req"]
        for name, tensor in integers.items():
            assert torch.equal(tensor.long(), found[name].long()), name
