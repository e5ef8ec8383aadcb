"""What only a GPU can show: the kernels as they are compiled for it. `make test-gpu` runs all tests marked so."""

from itertools import islice

import pytest
import torch

from indexfuzz.core.setup import Setup
from indexfuzz.devices.carrying import AROUND, carrier_to
from indexfuzz.devices.cuda_memory import DriverMapper
from indexfuzz.devices.expanse import PART
from indexfuzz.evaluation.bench.gpu_workloads import workloads
from indexfuzz.generation.stream import stream_cases
from indexfuzz.implementations import load
from indexfuzz.lockstep.values.unreserved import unreserved
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


@pytest.mark.parametrize(("count", "stride"), [(5, (1 << 32) + 4096), (9, (1 << 31) + 256), (40, 1 << 29)])
def test_rows_that_lie_far_apart_are_carried_and_take_little_memory(monkeypatch, count, stride):
    pieces, create = [], DriverMapper.create
    monkeypatch.setattr(DriverMapper, "create", lambda mapper: pieces.append(create(mapper)) or pieces[-1])
    storage = torch.frombuffer(unreserved((count - 1) * stride + 4096 + 2 * AROUND), dtype=torch.uint8)
    rows = storage.as_strided((count, 4096), (stride, 1), AROUND)
    rows.copy_(torch.arange(count, dtype=torch.uint8).unsqueeze(1))
    carrier, reserved = carrier_to("cuda"), torch.cuda.memory_reserved()
    there = carrier.bring({"rows": rows})["rows"]
    assert torch.equal(there.cpu(), rows)
    there += 1
    there.as_strided((1,), (1,), there.storage_offset() - 1).fill_(7)
    there.as_strided((1 << 20,), (1,), there.storage_offset() + stride // 2).fill_(9)
    carrier.take_back({})
    assert rows[:, 5].tolist() == list(range(1, count + 1))
    assert storage[AROUND - 1] == 7
    assert pieces
    assert len(pieces) * PART + torch.cuda.memory_reserved() - reserved < count * stride // 2


def test_launches_of_the_size_of_production_are_right():
    for workload in workloads(load("builtin")):
        workload.launch()
        assert workload.complaint() == "", workload.name
