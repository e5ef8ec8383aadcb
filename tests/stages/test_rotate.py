"""The judge of the rotation: silent on right rows, and what it says of wrong ones."""

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.plans import describe_plan, plans
from indexfuzz.oracles.differential import run
from indexfuzz.reference.rotate import legal_rotated, rotate
from indexfuzz.samples.materialise import materialise
from indexfuzz.stages.table import find

CASE = Case().replace(
    model={"num_heads": 3, "head_dim": 64, "quant_group": 64, "rope_dim": 32},
    batch={"decode": (5, 9), "max_model_len": 16},
    values={"q": "outlier"},
)


def butterflies(x, stages=None, add=lambda x: x):
    """The transform in fp32 by its stages, the first of neighbours; `add` rounds the sums."""
    dim = x.shape[-1]
    out = x.float()
    for stage in range(dim.bit_length() - 1 if stages is None else stages):
        pairs = out.reshape(*x.shape[:-1], -1, 2, 1 << stage)
        first, second = pairs.unbind(-2)
        out = add(torch.stack([first + second, first - second], -2)).reshape(x.shape)
    return (out * dim**-0.5).bfloat16()


def verdict(turn_q, turn_k):
    call = find("rotate").prepare(materialise(CASE))
    got = {"q": turn_q(call.tensors["q"]), "k": turn_k(call.tensors["k"])}
    return find("rotate").judge(CASE, call, got, Guarantees())


def test_right_rows_pass_and_few_elements_are_open():
    found = verdict(butterflies, butterflies)
    assert found.findings == ()
    assert 0 < found.width < 0.02


WRONG = {
    "nothing is rotated": lambda x: x,
    "the factor 1/sqrt(D) is left out": lambda x: (butterflies(x).float() * 8).bfloat16(),
    "the factor is 1/D": lambda x: (butterflies(x).float() / 8).bfloat16(),
    "the halves of a row are turned apart from each other": lambda x: butterflies(x, stages=5),
    "": lambda x: butterflies(x, add=lambda sums: sums.bfloat16().float()),
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_rows_are_told_with_their_mistake(words):
    found = verdict(WRONG[words], WRONG[words]).findings
    assert [finding.output for finding in found] == ["q", "k"]
    assert all(finding.detail.startswith(f"rotate: {words}") for finding in found)


@pytest.mark.parametrize("name", ["q", "k"])
def test_one_of_the_two_may_be_wrong(name):
    turns = {"q": butterflies, "k": butterflies} | {name: lambda x: x}
    (found,) = verdict(turns["q"], turns["k"]).findings
    assert found.output == name
    assert found.detail.startswith(f"rotate: {name} is not rotated")


def test_the_interval_ends_right_behind_what_rounding_explains():
    x = torch.zeros(1, 32, dtype=torch.bfloat16)
    x[0, 0] = 1.0
    low, high = legal_rotated(x)
    want = torch.full((1, 32), 32**-0.5, dtype=torch.double).bfloat16().double()
    assert torch.equal(low, want)
    assert torch.equal(high, want)
    low, high = legal_rotated((torch.arange(32.0) * 3e37).bfloat16().view(1, 32))
    assert bool(torch.isinf(low).all() & torch.isinf(high).all())


def test_there_is_no_such_matrix_for_other_sizes():
    x = torch.zeros(2, 48, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="powers of two alone, not for head_dim 48"):
        rotate(x.view(2, 1, 48), x)
    case = CASE.replace(model={"head_dim": 48, "quant_group": 48})
    outcome = run(case, Implementation("turns", {"rotate": rotate}), LockstepDevice())
    assert "head_dim is a power of two" in outcome.outside["rotate"]


def test_is_in_a_plan_where_somebody_does_it():
    (plan,) = plans(["rotate"])
    assert "rotate by operations of their own" in describe_plan(plan)
    assert all("rotate" not in plan for plan in plans(["rope", "fused_q"]))
