"""What only a GPU can show: the kernels as they are compiled for it. `make test-gpu` runs all tests marked so."""

from itertools import islice

import pytest
import torch

from indexfuzz.core.setup import Setup
from indexfuzz.evaluation.bench.gpu_workloads import workloads
from indexfuzz.generation.stream import stream_cases
from indexfuzz.implementations import load
from indexfuzz.subjects.open import prepare

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


CASES = 12


def shown(*faults):
    """The stages that are blamed in the first cases that are drawn."""
    subject = prepare(Setup(device="cuda", faults=faults)).subject
    cases = islice(stream_cases(7, subject.facts.formats), CASES)
    return {finding.stage for case in cases for finding in subject.run(subject.narrow(case)).findings}


def test_clean_kernels_show_nothing():
    assert shown() == set()


@pytest.mark.parametrize(("fault", "stage"), [("relu-after-sum", "paged_logits"), ("scale-not-ue8m0", "k_quant_cache")])
def test_a_planted_bug_is_seen(fault, stage):
    assert stage in shown(fault)


def test_launches_of_the_size_of_production_are_right():
    for workload in workloads(load("builtin")):
        workload.launch()
        assert workload.complaint() == "", workload.name
