"""A case that is made once more is the same, whatever has become of the tensors of before."""

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.samples.materialise import materialise
from tests.samples.test_step import MIXED

CASES = {
    "mixed": MIXED,
    "fused": MIXED.replace(memory={"fused": True, "q_head_pad": 8}),
    "strided": MIXED.replace(memory={"lens_step": 2, "lens_pad": 3, "angles_pad": 4}, cache={"page_pad": 64}),
    "far": MIXED.replace(cache={"page_pad": 1 << 27}),
    "empty": Case(),
}


def bytes_of(tensor: torch.Tensor) -> list[int]:
    return tensor.contiguous().flatten().view(torch.uint8).tolist()


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_it_has_the_same_bytes_and_forms(case):
    first = materialise(case)
    wanted = {name: bytes_of(buffer.rows) for name, buffer in first.buffers.items()}
    defined = first.defined.clone()
    for buffer in first.buffers.values():
        buffer.rows.fill_(3)
        buffer.seal()
    first.defined.fill_(9)
    again = materialise(case)
    assert {name: bytes_of(buffer.rows) for name, buffer in again.buffers.items()} == wanted
    assert torch.equal(again.defined, defined)
    assert list(again.tensors) == list(first.tensors)
    for name, buffer in again.buffers.items():
        before = first.buffers[name]
        assert buffer.view.stride() == before.view.stride()
        assert buffer.view.storage_offset() == before.view.storage_offset()
        assert buffer.view.dtype == before.view.dtype
        assert buffer.rows.data_ptr() != before.rows.data_ptr() or not buffer.rows.numel()
        assert name not in again.tensors or again.tensors[name] is buffer.view
        assert buffer.first_change(payload_may_change=False) is None
    assert len({id(buffer.storage) for buffer in again.buffers.values()}) == len(
        {id(buffer.storage) for buffer in first.buffers.values()}
    )


def test_its_guards_watch():
    materialise(MIXED)
    buffer = materialise(MIXED).buffers["weights"]
    buffer.rows[0, 0] = 1
    assert buffer.first_change(payload_may_change=True) is not None
    buffer.restore()
    assert buffer.first_change(payload_may_change=False) is None


def test_another_case_is_not_taken_for_it():
    other = MIXED.replace(values={"seed": 5})
    assert bytes_of(materialise(MIXED).tensors["q"]) != bytes_of(materialise(other).tensors["q"])
