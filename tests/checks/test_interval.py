import torch

from indexfuzz.checks.interval import check_between

AXES = ("token", "dim")


def ends(*pairs):
    return (torch.tensor([values]).double() for values in zip(*pairs, strict=True))


def test_the_last_legal_values_pass_and_the_first_illegal_ones_do_not():
    low, high = ends((1.0, 1.0), (-2.0, 3.0))
    for legal in ([1.0, -2.0], [1.0, 3.0]):
        assert check_between("k", torch.tensor([legal]).bfloat16(), low, high, axes=AXES) is None
    for illegal in ([1.0, -2.015625], [1.0, 3.015625]):
        found = check_between("k", torch.tensor([illegal]).bfloat16(), low, high, axes=AXES)
        assert (found.kind, found.output, found.index) == ("bound-exceeded", "k", (0, 1))
        assert "token 0, dim 1 is" in found.detail
        assert "must be in [-2, 3]" in found.detail
    found = check_between("k", torch.tensor([[1.0078125, 0.0]]).bfloat16(), low, high, axes=AXES)
    assert "must be 1;" in found.detail


def test_nan_is_right_only_where_nothing_is_known():
    low, high = ends((float("-inf"), float("inf")), (0.0, 1.0))
    assert check_between("k", torch.tensor([[float("nan"), 0.5]]), low, high, axes=AXES) is None
    assert check_between("k", torch.tensor([[0.5, float("nan")]]), low, high, axes=AXES).index == (0, 1)


def test_what_was_never_written_is_said_to_be():
    low, high = ends((0.0, 1.0), (0.0, 1.0))
    before = torch.full((1, 2), 7.0)
    found = check_between("k", torch.tensor([[0.5, 7.0]]), low, high, axes=AXES, before=before)
    assert found.kind == "unwritten"
    assert check_between("k", torch.tensor([[9.0, 7.0]]), low, high, axes=AXES, before=before).kind == "bound-exceeded"
