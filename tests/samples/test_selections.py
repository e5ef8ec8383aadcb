"""What tokens select is what they may see, and where it lies follows from the tables."""

import torch

from indexfuzz.core.case import Case
from indexfuzz.samples.materialise import materialise
from indexfuzz.samples.requests import token_places
from indexfuzz.samples.selections import place_selection

CASE = Case().replace(
    model={"index_topk": 16},
    cache={"block_size": 4, "layout": "normal"},
    batch={
        "decode": (40, 3),
        "prefill": ({"length": 30, "new": 9},),
        "next_n": 2,
        "max_model_len": 40,
        "pad_tokens": 2,
    },
)


def selection(case):
    step = materialise(case)
    place_selection(step)
    return step.tensors


def test_a_token_selects_distinct_positions_that_it_sees_and_as_many_as_fit():
    t = selection(CASE)
    for row, position, request in zip(
        t["columns"].tolist(), *map(torch.Tensor.tolist, token_places(CASE)), strict=True
    ):
        chosen = [column for column in row if column >= 0]
        seen = position + 1 if request >= 0 else 0
        assert len(set(chosen)) == len(chosen) == min(seen, 16)
        assert all(column < seen for column in chosen)
    assert t["token_to_req"].tolist()[-2:] == [-1, -1]


def test_holes_and_missing_pages_leave_gaps():
    whole, holes = selection(CASE)["columns"], selection(CASE.replace(batch={"select_holes": 3}))["columns"]
    assert bool((holes[whole < 0] == -1).all())
    assert bool(((holes == -1) & (whole >= 0)).any())
    assert torch.equal(holes[holes >= 0], whole[holes >= 0])
    t = selection(CASE.replace(memory={"missing_pages": 4, "table_tail": "huge"}))
    entry = (t["columns"] >= 0).nonzero()
    pages = t["req_table"][t["token_to_req"].long()[entry[:, 0]], t["columns"][tuple(entry.T)].long() // 4]
    assert 0 < len(entry) < int((whole >= 0).sum())
    assert bool((pages < CASE.num_blocks).all())


def test_rows_of_a_selection_lie_apart_and_far_apart():
    whole = selection(CASE)["columns"]
    for memory, stride in (({"columns_pad": 5}, 21), ({"far": "columns"}, -(-(1 << 31) // 14))):
        columns = selection(CASE.replace(memory=memory))["columns"]
        assert columns.stride() == (stride, 1)
        assert torch.equal(columns, whole)


def test_ranks_are_given_where_positions_are_something_else():
    assert "ranks" not in selection(CASE)
    t = selection(CASE.replace(batch={"positions": "gapped"}))
    assert torch.equal(t["ranks"], selection(CASE)["positions"])
    assert not torch.equal(t["ranks"], t["positions"])


def test_no_request_selects_nothing():
    t = selection(Case().replace(batch={"pad_tokens": 3}))
    assert t["req_table"].shape[0] == 0
    assert bool((t["columns"] == -1).all())
