"""A hollow step has the tensors of a step, where the step has them, and makes what is asked for alone."""

from itertools import islice

import torch

from indexfuzz.generation.stream import stream_cases
from indexfuzz.samples.hollow import materialise_hollow
from indexfuzz.samples.materialise import materialise

INTEGERS = (torch.int32, torch.int64)


def test_tensors_have_the_form_the_place_and_the_integers_of_those_of_a_step():
    for case in islice(stream_cases(3, ("e4m3fn",)), 20):
        hollow = materialise_hollow(case)
        for name, wanted in materialise(case).tensors.items():
            found = hollow.tensors[name]
            assert (found.shape, found.stride(), found.dtype) == (wanted.shape, wanted.stride(), wanted.dtype), name
            assert found.data_ptr() % 64 == wanted.data_ptr() % 64, name
            assert wanted.dtype not in INTEGERS or torch.equal(found, wanted), name


def test_what_nobody_asks_for_is_not_made():
    (case,) = islice(stream_cases(3, ("e4m3fn",)), 1)
    hollow = materialise_hollow(case)
    assert hollow.tensors["ks"].numel() == case.batch.prefill_rows
    assert hollow.tensors.keys() == {"ks", "ke"}


def test_what_a_stage_would_have_made_is_made_as_one_says():
    (case,) = islice(stream_cases(3, ("e4m3fn",)), 1)
    hollow = materialise_hollow(case, results=lambda step: {("sum",): lambda: step.place("sum", torch.ones(3))})
    assert hollow.tensors["sum"].tolist() == [1, 1, 1]
