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
        (
            (2, 4, 0),
            "row 0 chose column 0 (at most 0.5) over column 3 (at least 1); 1 better columns left out of 3 chosen",
        ),
        ((2, 2, 4), "entry 0: column 2 is chosen more than once"),
        ((2, 4, 1), "entry 2: column 1 is not visible"),
        ((2, 4, 5), "entry 2: column 5 is out of range"),
        ((2, 4, -7), "entry 2: column -7 is out of range"),
        ((2, 4, -1), "entry 2: column -1 is missing: the row has more visible columns"),
        ((2, -1, 4), "entry 1: column -1 is missing"),
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
    assert "entry 5: column 1 must be -1" in found.detail
    assert topk.check_topk("topk", chosen(-1, -1), torch.full((1, 3), -INF)) is None
    assert topk.check_topk("topk", chosen(-1, -1), torch.empty(1, 0)) is None
    assert topk.check_topk("topk", torch.empty((0, 2), dtype=torch.int32), torch.empty(0, 3)) is None


@pytest.mark.parametrize("sign", [1, -1])
def test_intervals_at_the_edge(sign: int) -> None:
    """Column 0 is known to +-0.5; column 1 is certain. They may swap only while the intervals touch."""
    low, high = torch.tensor([[sign - 0.5, 0.0]]).double(), torch.tensor([[sign + 0.5, 0.0]]).double()
    visible = torch.ones(1, 2, dtype=torch.bool)
    legal, illegal = (0, 1) if sign > 0 else (1, 0)
    assert topk.check_reachable("topk", chosen(legal), low, high, visible) is None
    assert topk.check_reachable("topk", chosen(illegal), low, high, visible) is not None
    touching = torch.where(torch.tensor([[True, False]]), -sign * 0.5, 0.0) + torch.zeros(1, 2).double()
    assert topk.check_reachable("topk", chosen(illegal), low + touching, high + touching, visible) is None
    beyond = touching * (1 - 2.0**-50)
    assert topk.check_reachable("topk", chosen(illegal), low + beyond, high + beyond, visible) is not None


def test_reachability_agrees_with_search() -> None:
    torch.manual_seed(0)
    rejected = 0
    for _ in range(150):
        low = torch.randint(0, 6, (1, 5)).double()
        high = low + torch.randint(0, 4, (1, 5))
        k = int(torch.randint(1, 5, ()))
        ranges = [range(int(a), int(b) + 1) for a, b in zip(low[0], high[0], strict=True)]
        reachable = set()
        for values in itertools.product(*ranges):
            for subset in itertools.combinations(range(5), k):
                if min(values[i] for i in subset) >= max([values[j] for j in range(5) if j not in subset], default=-1):
                    reachable.add(subset)
        for subset in itertools.combinations(range(5), k):
            found = topk.check_reachable("topk", chosen(*subset), low, high, torch.ones(1, 5, dtype=torch.bool))
            assert (found is None) == (subset in reachable)
            rejected += found is not None
    assert rejected > 100


def test_rows_with_nan_are_checked_for_structure_only() -> None:
    logits = torch.tensor([[math.nan, 1.0, 2.0]])
    assert topk.check_topk("topk", chosen(1, 2), logits) is None
    assert topk.check_topk("topk", chosen(1, 1), logits) is not None
