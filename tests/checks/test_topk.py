import itertools
import math

import pytest
import torch

from indexfuzz.checks import topk

INF = math.inf


def chosen(*columns: int) -> torch.Tensor:
    return torch.tensor([columns], dtype=torch.int32)


LOGITS = torch.tensor([[0.5, -INF, 2.0, 1.0, 2.0]])


@pytest.mark.parametrize("columns", [(2, 4, 3), (4, 3, 2), (3, 2, 4)])
def test_any_order_of_the_largest_is_legal(columns: tuple[int, ...]) -> None:
    assert topk.check_topk("topk", chosen(*columns), LOGITS) is None


def test_ties_are_free_and_zeros_are_equal() -> None:
    tied = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    for pair in itertools.combinations(range(3), 2):
        assert topk.check_topk("topk", chosen(*pair), tied) is None
    assert topk.check_topk("topk", chosen(1), torch.tensor([[0.0, -0.0]])) is None
    assert topk.check_topk("topk", chosen(0), torch.tensor([[-0.0, 0.0]])) is None


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ((2, 4, 0), "row 0 chose column 0 (logit 0.5) over column 3 (logit 1); 1 better columns left out of 3 chosen"),
        ((2, 2, 4), "entry 0 is column 2, which is chosen more than once; column 3 (logit 1) is left out; 2 of 3"),
        ((2, 4, 1), "entry 2 is column 1, which the row does not see; column 3 (logit 1) is left out; 1 of 3"),
        ((2, 4, 5), "entry 2 is column 5, which does not exist: there are 5; 1 of 3 entries wrong"),
        ((2, 4, -7), "entry 2 is column -7, which does not exist"),
        ((2, 4, -1), "entry 2 is -1, must be column 3 (logit 1): the row has more visible columns; 1 of 3"),
        ((2, -1, 3), "entry 1 is -1, must be column 4 (logit 2): the row has more visible columns"),
    ],
)
def test_illegal_selections(columns: tuple[int, ...], words: str) -> None:
    found = topk.check_topk("topk", chosen(*columns), LOGITS)
    assert found is not None
    assert found.kind == "illegal-topk"
    assert words in found.detail


def test_minus_one_fills_short_rows() -> None:
    assert topk.check_topk("topk", chosen(3, 2, 0, 4, -1, -1), LOGITS) is None
    found = topk.check_topk("topk", chosen(3, 2, 0, 4, -1, 1), LOGITS)
    assert found is not None
    assert "entry 5 is column 1, must be -1: the row has no more visible columns" in found.detail
    assert topk.check_topk("topk", chosen(-1, -1), torch.full((1, 3), -INF)) is None
    assert topk.check_topk("topk", chosen(-1, -1), torch.empty(1, 0)) is None
    assert topk.check_topk("topk", torch.empty((0, 2), dtype=torch.int32), torch.empty(0, 3)) is None


def test_the_finding_points_at_the_entry_and_shows_both_logits() -> None:
    found = topk.check_topk("topk", chosen(2, 0, 4), LOGITS)
    assert found is not None
    assert (found.index, found.got, found.want) == ((0, 1), "column 0 (logit 0.5)", "column 3 (logit 1)")


def test_unwritten_entries_are_called_so_where_that_is_all_that_is_wrong() -> None:
    poison = torch.full((1, 3), 0x7F7F7F7F, dtype=torch.int32)
    found = topk.check_topk("topk", poison, LOGITS, before=poison)
    assert found is not None
    assert (found.kind, found.want) == ("unwritten", "column 2 (logit 2)")
    assert found.detail == "row 0, entry 0 was never written, must be column 2 (logit 2); 3 of 3 entries wrong"
    found = topk.check_topk("topk", chosen(2, 4, 0x7F7F7F7F), LOGITS, before=poison)
    assert found is not None
    assert (found.kind, found.index) == ("unwritten", (0, 2))
    found = topk.check_topk("topk", chosen(2, 1, 0x7F7F7F7F), LOGITS, before=poison)
    assert found is not None
    assert found.kind == "illegal-topk"


def test_legality_agrees_with_search() -> None:
    torch.manual_seed(0)
    rejected = 0
    for _ in range(150):
        logits = torch.randint(0, 6, (1, 5)).float()
        logits[0, 0] = -INF if int(torch.randint(0, 2, ())) else 3.0
        k = int(torch.randint(1, 5, ()))
        for subset in itertools.combinations(range(5), k):
            left = [float(logits[0, j]) for j in range(5) if j not in subset]
            legal = (
                min(float(logits[0, i]) for i in subset) >= max(left) and -INF not in logits[0, list(subset)].tolist()
            )
            assert (topk.check_topk("topk", chosen(*subset), logits) is None) == legal
            rejected += not legal
    assert rejected > 100


def test_rows_with_nan_are_checked_for_structure_only() -> None:
    logits = torch.tensor([[math.nan, 1.0, 2.0]])
    assert topk.check_topk("topk", chosen(1, 2), logits) is None
    assert topk.check_topk("topk", chosen(1, 1), logits) is not None


def test_order_of_the_selected() -> None:
    for columns in ((2, 4, 3), (4, 2, 3, 0, -1)):
        assert topk.check_sorted("topk", chosen(*columns), LOGITS) is None
    found = topk.check_sorted("topk", chosen(2, 3, 4), LOGITS)
    assert found is not None
    assert (found.kind, found.feature, found.index) == ("illegal-topk", "order", (0, 1))
    assert "row 0, entry 1 is column 3 (logit 1), before column 4 (logit 2); 1 of 1 rows wrong" in found.detail
