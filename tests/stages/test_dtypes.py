"""q and k of other dtypes than bf16: whatever takes them is held to the roundings of its own dtype."""

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.core.contract import OF_DTYPES
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults import plant
from indexfuzz.oracles.differential import run
from indexfuzz.reference import fp8, intervals
from indexfuzz.reference.legal import legal_rope
from indexfuzz.reference.rotate import legal_rotated
from indexfuzz.samples.materialise import materialise
from indexfuzz.stages.k_norm import EPS
from indexfuzz.stages.table import find

CASE = Case().replace(
    model={"num_heads": 2, "head_dim": 64, "quant_group": 64, "rope_dim": 32},
    batch={"prefill": ({"length": 60, "new": 60},), "pad_tokens": 3},
    values={"seed": 5},
)
OTHERS = ("fp16", "fp32")
TAKING, _ = OF_DTYPES["activations"]


def of(dtype):
    return CASE.replace(memory={"activations": dtype})


@pytest.mark.parametrize("dtype", OTHERS)
@pytest.mark.parametrize("stage", TAKING)
def test_right_results_are_silent(stage, dtype):
    assert run(of(dtype), builtin(), LockstepDevice(), frozenset({stage})).findings == []


@pytest.mark.parametrize("dtype", OTHERS)
@pytest.mark.parametrize("value", ["large", "wide", "saturation", "subnormal"])
def test_numbers_of_any_size_are_silent(dtype, value):
    case = of(dtype).replace(values={"q": value, "k": value})
    assert bool(torch.isfinite(materialise(case).tensors["q"]).all())
    assert run(case, builtin(), LockstepDevice(), frozenset(TAKING)).findings == []


def largest(stage, t):
    """The largest legal values of what a stage makes of k, in its dtype."""
    k = t["k"]
    if stage == "rope":
        options = {"rope_dim": 32, "style": "neox", "placement": "first"}
        return legal_rope(k, t["positions"], t["cos_sin_cache"], **options).amax(0)
    if stage == "rotate":
        return last_below(legal_rotated(k).high, k)
    normed = intervals.normalised(k, t["k_norm_weight"], t["k_norm_bias"], EPS)
    return last_below(intervals.rounded(normed, "bf16", k.dtype).high, k)


def last_below(end, like):
    """The last numbers of a dtype that are not beyond an end: of fp32 values an interval may end between two."""
    near = end.to(like.dtype)
    return torch.where(near.double() > end, torch.nextafter(near, near.new_tensor(-torch.inf)), near)


@pytest.mark.parametrize("dtype", ["bf16", *OTHERS])
@pytest.mark.parametrize("stage", ["rope", "rotate", "k_norm"])
def test_the_last_legal_value_passes_and_the_next_does_not(stage, dtype):
    call = find(stage).prepare(materialise(of(dtype)))
    got = call.copy().run(find(stage).reference)
    high = largest(stage, call.tensors)
    at = (7, 3)
    for value, count in ((high[at], 0), (torch.nextafter(high[at], high[at].new_tensor(torch.inf)), 1)):
        changed = got["k"].clone()
        changed[at] = value
        found = find(stage).judge(of(dtype), call, got | {"k": changed}, Guarantees()).findings
        assert len(found) == count, value
        assert all("token 7, dim 3 " in finding.detail for finding in found)


@pytest.mark.parametrize("dtype", OTHERS)
def test_what_lies_right_beside_a_tie_has_one_code(dtype):
    """1.0625 lies halfway between the codes of 1 and of 1.125; bf16 has no number as near to it."""
    case = of(dtype).replace(values={"q": "zeros"})
    call = find("q_quant").prepare(materialise(case))
    q = call.tensors["q"]
    q[0, 0, 0], tie = 448.0, q.new_tensor(1.0625)
    q[0, 0, 1], q[0, 0, 2] = tie, torch.nextafter(tie, q.new_tensor(2.0))
    got = call.run(find("q_quant").reference)
    codes = fp8.codes(got["q_fp8"])
    one = int(fp8.encode(torch.ones(1), "e4m3fn"))
    assert codes[0, 0, 1:3].tolist() == [one, one + 1]
    for dim, wrong in ((1, one + 1), (2, one)):
        changed = codes.clone()
        changed[0, 0, dim] = wrong
        outputs = got | {"q_fp8": changed.view(torch.float8_e4m3fn)}
        assert find("q_quant").judge(case, call, got, Guarantees()).findings == ()
        (found,) = find("q_quant").judge(case, call, outputs, Guarantees()).findings
        assert f"dim {dim} " in found.detail


@pytest.mark.parametrize("dtype", OTHERS)
@pytest.mark.parametrize("stage", ["fused_q", "fused_k"])
def test_what_is_rounded_to_bf16_is_told(stage, dtype):
    found = run(of(dtype), plant(("fused-rounds-to-bf16",)), LockstepDevice(), frozenset({stage})).findings
    assert found[0].detail.startswith("rope: its result is rounded to bf16: ")


def test_a_session_has_its_activations_in_bf16():
    steps = ({"turns": ({"request": 0, "new": 3},)},)
    session = {"node": "pool", "ratio": 2, "steps": steps}
    case = Case().replace(session=session, batch={"max_model_len": 8})
    with pytest.raises(ValueError, match="the q and k of a session are bf16, not fp16"):
        case.replace(memory={"activations": "fp16"})
