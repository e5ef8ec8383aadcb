import math
from typing import Any

import pytest
import torch

from indexfuzz.checks.logits import Alternatives, Expected, check_logits

INF = math.inf


def beside(reference: float, bound: float, sign: int) -> tuple[float, float]:
    """The last fp32 value within the bound on one side, and the first beyond it."""
    edge = torch.tensor(reference + sign * bound, dtype=torch.float64)
    inside = edge.float()
    if abs(float(inside) - reference) > bound:
        inside = torch.nextafter(inside, torch.tensor(-sign * INF))
    return float(inside), float(torch.nextafter(inside, torch.tensor(sign * INF)))


def judge(got: list[float], reference: list[float], bound: list[float], **options: Any) -> tuple:
    expected = Expected(
        torch.tensor([reference], dtype=torch.float64),
        torch.tensor([bound], dtype=torch.float64),
        torch.tensor([[r > -INF for r in reference]]),
        "T3",
        **options,
    )
    return check_logits(torch.tensor([got]), expected)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("reference", "bound"), [(3.0, 1e-5), (-7.25, 2.5e-6), (0.0, 1e-30), (1e30, 1e24), (2.0, 0.0)])
def test_last_legal_value_passes_and_the_next_fails(reference: float, bound: float, sign: int) -> None:
    inside, outside = beside(reference, bound, sign)
    found, ratio = judge([inside, -INF], [reference, -INF], [bound, 0.0])
    assert found is None
    assert ratio <= 1
    found, ratio = judge([outside, -INF], [reference, -INF], [bound, 0.0])
    assert found is not None
    assert (found.kind, found.index, found.tier) == ("bound-exceeded", (0, 0), "T3")
    assert "1 of 1 wrong" in found.detail
    assert ratio > 1


def test_the_ratio_is_reported_when_all_is_well() -> None:
    found, ratio = judge([1.0 + 2.0**-20, 5.0], [1.0, 5.0], [2.0**-18, 0.0])
    assert found is None
    assert ratio == 0.25


def test_negative_zero_is_zero() -> None:
    assert judge([-0.0], [0.0], [0.0]) == (None, 0.0)


@pytest.mark.parametrize("value", [0.0, 1e-30, -1e38, INF, math.nan])
def test_hidden_columns_must_be_minus_infinity(value: float) -> None:
    found, ratio = judge([1.0, value], [1.0, -INF], [0.1, 0.0])
    assert found is not None
    assert (found.kind, found.index, found.want, ratio) == ("mask-mismatch", (0, 1), "-inf", INF)
    assert "row 0 sees columns 0 to 0" in found.detail


def test_visible_columns_must_not_be_masked() -> None:
    found, _ = judge([-INF, 1.0], [1.0, 1.0], [0.1, 0.1])
    assert found is not None
    assert (found.kind, found.detail) == (
        "mask-mismatch",
        "row 0, column 0 is visible but holds -inf; 1 of 2 wrong, only column 0 of those visible",
    )


def test_the_mask_is_judged_before_any_value() -> None:
    found, _ = judge([99.0, 0.0], [1.0, -INF], [0.1, 0.0])
    assert found is not None
    assert found.kind == "mask-mismatch"


def test_nan_and_infinity_exceed_every_finite_bound() -> None:
    for value in (math.nan, INF):
        found, ratio = judge([value], [1.0], [1e300])
        assert found is not None
        assert (found.kind, ratio) == ("bound-exceeded", INF)


@pytest.mark.parametrize("value", [0.0, INF, -INF, math.nan, 3e38])
def test_an_infinite_bound_decides_nothing(value: float) -> None:
    assert judge([value, 1.0], [1e38, 1.0], [INF, 0.0]) == (None, 0.0)


def test_poison_that_is_still_there_is_unwritten() -> None:
    poison = torch.full((1, 2), -1, dtype=torch.int32).view(torch.float32)
    got = torch.tensor([[1.0, 0.0]])
    got.view(torch.int32)[0, 1] = -1
    for reference in (1.0, -INF):
        want = torch.tensor([[1.0, reference]], dtype=torch.float64)
        visible = want > -INF
        found, _ = check_logits(got, Expected(want, torch.zeros(1, 2).double(), visible, "T0", poison))
        assert found is not None
        assert (found.kind, found.index) == ("unwritten", (0, 1))
        assert "1 of " in found.detail
        assert "row 0, column 1 was never written" in found.detail


def test_a_contract_may_leave_hidden_columns_untouched() -> None:
    before = torch.full((1, 2), math.nan)
    assert judge([1.0, math.nan], [1.0, -INF], [0.1, 0.0], before=before, hidden_stay=True) == (None, 0.0)
    found, _ = judge([1.0, -INF], [1.0, -INF], [0.1, 0.0], before=before, hidden_stay=True)
    assert found is not None
    assert (found.kind, found.want) == ("mask-mismatch", "left as it was")


def test_a_mistake_that_explains_everything_is_named() -> None:
    reference = torch.tensor([[1.0, 2.0, 3.0]]).double()
    bound, visible = torch.full((1, 3), 1e-6).double(), torch.ones(1, 3, dtype=torch.bool)
    expected = Expected(reference, bound, visible, "T3")
    got = torch.tensor([[3.0, 1.0, 2.0]])
    named = {"forgets the ReLU": lambda: (got.double(), bound), "other": lambda: (reference, bound)}
    found, _ = check_logits(got, expected, Alternatives(mistakes=named))
    assert found is not None
    assert found.kind == "bound-exceeded"
    assert found.detail.startswith("forgets the ReLU: row 0, column 0 is 3 (0x40400000), must be 1 +- 1e-06 (T3)")
    found, _ = check_logits(got, expected, Alternatives(layouts={"normal": named["forgets the ReLU"]}))
    assert found is not None
    assert found.kind == "layout-mismatch"
    assert found.detail.startswith("reads the NORMAL layout: ")


def test_a_mistake_is_named_by_a_value_that_tells_it_from_others() -> None:
    reference, bound = torch.tensor([[1.0, 2.0]]).double(), torch.full((1, 2), 1e-6).double()
    expected = Expected(reference, bound, torch.ones(1, 2, dtype=torch.bool), "T3")

    def kind_of(got: list[float], made: list[float], allowed: float = 1e-6, *, overflows: bool = False) -> str:
        made_of = torch.tensor([made]).double(), torch.full((1, 2), allowed).double()
        alternatives = Alternatives(layouts={"shuffle": lambda: made_of}, overflows=overflows)
        found, _ = check_logits(torch.tensor([got]), expected, alternatives)
        assert found is not None
        return found.kind

    assert kind_of([math.nan, 2.0], [math.nan, 2.0]) == "layout-mismatch"
    assert kind_of([math.nan, 2.0], [math.nan, 2.0], overflows=True) == "bound-exceeded"
    assert kind_of([math.nan, 5.0], [math.nan, 5.0], overflows=True) == "layout-mismatch"
    assert kind_of([5.0, 2.0], [6.0, 2.0], math.inf) == "bound-exceeded"


def test_no_rows_and_no_columns() -> None:
    for shape in ((0, 3), (3, 0)):
        empty = torch.empty(shape)
        visible = torch.empty(shape, dtype=torch.bool)
        assert check_logits(empty, Expected(empty.double(), empty.double(), visible, "T0", empty)) == (None, 0.0)
