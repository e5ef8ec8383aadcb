import math

import pytest
import torch

from indexfuzz.checks import describe

AXES = ("token", "dim")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.tensor(1.5), "1.5 (0x3fc00000)"),
        (torch.tensor(-0.0), "-0 (0x80000000)"),
        (torch.tensor(1.5).bfloat16(), "1.5 (0x3fc0)"),
        (torch.tensor(math.nan), "nan (0x7fc00000)"),
        (torch.tensor(7, dtype=torch.uint8), "7"),
        (torch.tensor(0x7E, dtype=torch.uint8).view(torch.float8_e4m3fn), "448 (0x7e)"),
    ],
)
def test_text(value: torch.Tensor, words: str) -> None:
    assert describe.text(value) == words


def mask(rows: object, columns: object, shape: tuple[int, int] = (6, 96)) -> torch.Tensor:
    found = torch.zeros(shape, dtype=torch.bool)
    found[rows, columns] = True  # type: ignore[index]
    return found


EVERY = slice(None)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (mask(EVERY, EVERY), ""),
        (mask(3, EVERY), "only token 3"),
        (mask(EVERY, slice(64, None)), "only dims >= 64"),
        (mask(EVERY, slice(0, 16)), "only dims < 16"),
        (mask(slice(1, 3), slice(32, 48)), "only tokens 1 to 2 and dims 32 to 47"),
        (mask(EVERY, slice(1, None, 2)), "only dims 1 modulo 2"),
        (mask(EVERY, slice(3, None, 16)), "only dims 3 modulo 16"),
        (mask(5, [1, 2, 50]), "only token 5 and 3 of 96 dims"),
    ],
)
def test_extent(wrong: torch.Tensor, words: str) -> None:
    assert describe.extent(wrong, AXES) == words


def test_extent_among_what_was_judged() -> None:
    judged = mask(EVERY, slice(0, 40))
    assert describe.extent(mask(EVERY, slice(16, 40)), AXES, judged) == "only dims >= 16"
    assert describe.extent(judged, AXES, judged) == ""


def distinct() -> torch.Tensor:
    return torch.arange(1.0, 25.0).view(4, 6).double() ** 1.5


def relate(got: torch.Tensor, want: torch.Tensor) -> str:
    return describe.relation(got, want, got != want, AXES)


def test_relations() -> None:
    want = distinct()
    assert relate(want * 2, want) == "every wrong value is 2 times the right one"
    assert relate(-want, want) == "every wrong value has the wrong sign"
    assert relate(torch.zeros_like(want), want) == "the wrong ones are all zero"
    assert relate(want * math.nan, want) == "the wrong ones are all NaN"
    assert relate(want * 0 + 7, want) == "the wrong ones are all 7"
    assert relate(want.roll(1, 0), want) == "each but token 0 holds what belongs to the token before it"
    assert relate(want.roll(-1, 1), want) == "each but dim 5 holds what belongs to the dim after it"
    moved = want.roll(1, 0)
    moved[0] = want[0]
    assert relate(moved, want) == "each holds what belongs to the token before it"
    swapped = want[[0, 3, 2, 1]]
    assert relate(swapped, want) == "token 1 is token 3 of the reference, token 3 is token 1 of the reference"
    shuffled = want.flatten()[torch.randperm(24, generator=torch.Generator().manual_seed(1))].view(4, 6)
    assert relate(shuffled, want) == "the right values in wrong places"
    torch.manual_seed(0)
    assert relate(torch.randn(4, 6).double(), want) == ""
    single = want.clone()
    single[1, 1] += 0.125
    assert relate(single, want) == ""


def test_a_relation_explains_every_wrong_element_or_is_not_mentioned() -> None:
    want = distinct().repeat(2, 1) + torch.arange(8.0).view(8, 1).double() * 1000
    moved = want[[1, 0, 3, 2, 5, 4, 7, 6]]
    assert relate(moved, want).endswith("token 3 is token 2 of the reference and so on")
    moved[7] += 50
    assert "of the reference" not in relate(moved, want)
    from_first = want.clone()
    from_first[3] = want[0]
    assert relate(from_first, want) == "token 3 is token 0 of the reference"
    shifted = want.roll(1, 0)
    shifted[5, 2] += 50
    assert "holds what belongs" not in relate(shifted, want)


def test_summary() -> None:
    want = distinct()
    got = want.clone()
    got[2] *= 0.5
    assert str(describe.summary(got, want, got != want, AXES)) == (
        "6 of 24 wrong; only token 2; every wrong value is 0.5 times the right one"
    )


def test_many_lines_are_looked_for_without_comparing_each_with_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a line's source is, a relation costs little more than reading the tensors."""
    compared, near = [], describe._near

    def count(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        result = near(a, b)
        compared.append(result.numel())
        return result

    monkeypatch.setattr(describe, "_near", count)
    values = torch.arange(40_000.0).view(20_000, 2).double() + 1
    want = values.repeat(1, 8) * torch.arange(1.0, 17.0)
    moved = want.clone()
    moved[:900] = want[10_000:10_900]
    assert relate(moved, want).startswith("token 0 is token 10000 of the reference")
    assert sum(compared) < 900 * 3 * len(want)
    compared.clear()
    assert relate(want.roll(3, 0), want) == "the right values in wrong places"
    assert sum(compared) < 40 * want.numel()


FOUR_TIMES = "every wrong value is 4 times the right one"


@pytest.mark.parametrize(
    ("hint", "got", "want", "expected"),
    [
        (FOUR_TIMES, "0.125 (0x3e000000)", "4.76837158e-07 (0x35000000)", True),
        (FOUR_TIMES, "5.65685415 (0x40b504f3)", "0.176776692 +- 5.27e-07", True),
        (FOUR_TIMES, "1 (0x3f80)", "exactly 0", True),
        (FOUR_TIMES, "0x69 (72)", "0x68 (64)", True),
        (FOUR_TIMES, "0.5 (0x3f000000)", "0.125 +- 5.27e-07", False),
        (FOUR_TIMES, "0x78 (256)", "0x68 (64)", False),
        (FOUR_TIMES, "1 (0x3f80)", "in [0, 0.125]", False),
        (FOUR_TIMES, "", "", False),
        ("forgets the ReLU: every wrong value is 4 times the right one", "1", "3", True),
        ("the wrong ones are all zero", "1 (0x3f80)", "2 (0x4000)", True),
        ("the wrong ones are all zero", "-0 (0x8000)", "2 (0x4000)", False),
        ("the wrong ones are all NaN", "nan (0x7fffffff)", "2 (0x4000)", False),
        ("the wrong ones are all -inf", "nan (0x7fffffff)", "2 (0x4000)", True),
        ("the wrong ones are all 0.333333343", "0.333333343 (0x3eaaaaab)", "2 (0x4000)", False),
        ("token 1 is token 0 of the reference", "1 (0x3f80)", "2 (0x4000)", False),
    ],
)
def test_one_wrong_value_may_give_the_lie_to_a_hint(hint, got, want, expected) -> None:
    assert describe.contradicts(hint, got, want) is expected
