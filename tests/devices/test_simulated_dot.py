"""Tier T1: the bits of a matrix unit, simulated, against the built-in kernels and mutations of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees, Promises
from indexfuzz.core.outcome import Outcome
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.devices.simulated_dot import simulated_dot
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults.planting import edited_kernels
from indexfuzz.kernels import mqa_logits, paged_mqa_logits
from indexfuzz.oracles.differential import run
from indexfuzz.reference import fp8
from indexfuzz.reference.mqa_logits import exact_scores

LOGITS = frozenset({"prefill_logits", "paged_logits"})


def random_fp8(seed: int, *shape: int, fmt: str = "e4m3fn") -> Tensor:
    torch.manual_seed(seed)
    return fp8.as_fp8(fp8.encode(torch.randn(shape) * 8, fmt), fmt)


@pytest.mark.parametrize("model", ["ieee", "sm90", "cdna3"])
@pytest.mark.parametrize("m_tile", [16, 64, 128])
def test_the_operands_may_be_swapped(model: str, m_tile: int) -> None:
    """Both ways of tiling are taken: 3 * 7 query rows of 2 groups against 50 keys, and the reverse."""
    q, k = random_fp8(0, 2, 3, 7, 64), random_fp8(1, 2, 50, 64)
    dot = simulated_dot(model, m_tile)
    scores = dot(q, k)
    assert scores.shape == (2, 3, 7, 50)
    assert scores.dtype == torch.float32
    swapped = dot(fp8.as_fp8(fp8.codes(k), "e4m3fn").unsqueeze(2), q.reshape(2, 21, 64))
    assert torch.equal(swapped.squeeze(2).transpose(1, 2).reshape(2, 3, 7, 50), scores)
    one = dot(q[1:, 2:, 4:5], k[1:, 33:34])
    assert torch.equal(one, scores[1:, 2:, 4:5, 33:34])


def test_the_models_differ_as_their_units_do() -> None:
    q, k = random_fp8(2, 1, 1, 64, 128), random_fp8(3, 1, 256, 128)
    exact = exact_scores(q, k)
    size = exact_scores(*(fp8.as_fp8(fp8.codes(x) & 0x7F, "e4m3fn") for x in (q, k)))
    error = {
        name: ((simulated_dot(*name)(q, k) - exact).abs() / size).max().item()
        for name in (("ieee", 64), ("sm90", 64), ("sm90", 192), ("sm90", 32), ("cdna3", 64))
    }
    assert torch.equal(simulated_dot("ieee", 64)(q, k), exact.float())
    assert error["sm90", 64] == error["sm90", 192] > 2.0**-14
    assert 0 < error["sm90", 32] < 2.0**-21
    assert 0 < error["cdna3", 64] < 2.0**-21


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown matrix unit 'sm70'; there are ieee, sm90, cdna3"):
        simulated_dot("sm70", 64)
    with pytest.raises(ValueError, match="m_tile must be at least 1, got 0"):
        simulated_dot("sm90", 0)
    q = random_fp8(0, 1, 1, 1, 32, fmt="e4m3fnuz")
    with pytest.raises(ValueError, match="sm_90 has no dot of e4m3fnuz"):
        simulated_dot("sm90", 64)(q, q[0])
    nothing = simulated_dot("sm90", 64)(random_fp8(0, 2, 0, 3, 32), random_fp8(0, 2, 5, 32))
    assert nothing.shape == (2, 0, 3, 5)


@dataclass(frozen=True)
class KnownUnit(LockstepDevice):
    """Lockstep, judged by the bits of its own dots."""

    def guarantees(self, promises: Promises) -> Guarantees:
        known = super().guarantees(promises)
        assert mqa_logits.KEYS == paged_mqa_logits.KEYS == 64
        return replace(known, simulated_dot=simulated_dot(self.dot, mqa_logits.KEYS))


def case(seed: int, **parts: dict[str, object]) -> Case:
    """Gaussian data with fp32 scales; both logits stages."""
    model = {"num_heads": 16, "head_dim": 128, "quant_group": 128, "rope_dim": 64, "scale_fmt": "fp32"}
    batch = {
        "decode": (70, 33),
        "next_n": 2,
        "max_model_len": 80,
        "prefill": ({"length": 90, "new": 9},),
        "gather_pad": 1,
    }
    default = {"model": model, "batch": batch, "cache": {"block_size": 16}, "values": {"seed": seed}}
    return Case.parse({name: default.get(name, {}) | parts.get(name, {}) for name in {*default, *parts}})


def judge(sample: Case, implementation: Implementation, dot: str = "sm90") -> Outcome:
    outcome = run(sample, implementation, KnownUnit(dot), LOGITS)
    assert set(outcome.stages) == LOGITS
    return outcome


@pytest.mark.parametrize("dot", ["ieee", "sm90", "cdna3"])
@pytest.mark.parametrize("seed", range(3))
def test_the_built_in_kernels_stay_well_within_the_bound(dot: str, seed: int) -> None:
    formats = ({}, {"scale_fmt": "ue8m0"}, {"num_heads": 6, "head_dim": 32, "quant_group": 32, "rope_dim": 16})
    outcome = judge(case(seed, model=formats[seed]), builtin(), dot)
    assert outcome.findings == []
    assert set(outcome.tiers.values()) == {"T1"}
    assert 0 < max(outcome.ratios.values()) < 0.5


@pytest.mark.parametrize(
    ("dot", "tier", "without_shape"), [("ieee", "T3", "T3"), ("sm90", "T1", "T2"), ("cdna3", "T1", "T3")]
)
def test_the_device_knows_the_bits_of_dots_whose_shape_is_promised(dot: str, tier: str, without_shape: str) -> None:
    assert paged_mqa_logits.KEYS == builtin().promises.dot_rows == mqa_logits.KEYS
    silent = replace(builtin(), promises=replace(builtin().promises, dot_rows=None))
    for implementation, expected in ((builtin(), tier), (silent, without_shape)):
        outcome = run(case(0), implementation, LockstepDevice(dot), LOGITS)
        assert outcome.findings == []
        assert set(outcome.tiers.values()) == {expected}


def test_another_unit_s_bits_are_noticed() -> None:
    """HMMA where QGMMA is expected, as a kernel with a smaller tile would have it."""
    sample = case(0)

    @dataclass(frozen=True)
    class Wrong(LockstepDevice):
        def guarantees(self, promises: Promises) -> Guarantees:
            return replace(super().guarantees(promises), simulated_dot=simulated_dot("sm90", 32))

    outcome = run(sample, builtin(), Wrong("sm90"), LOGITS)
    assert {f.kind for f in outcome.findings} == {"bound-exceeded"}


def on_inputs(change: Callable[..., dict[str, Tensor]]) -> Implementation:
    """The built-in kernels, given changed copies of q_fp8, k_fp8, k_scale and weights."""

    def prefill_logits(**call: Tensor) -> None:
        mqa_logits.mqa_logits(**call | change(**{name: call[name].clone() for name in CHANGEABLE}))

    return replace(builtin(), stages=builtin().stages | {"prefill_logits": prefill_logits})


CHANGEABLE = ("q_fp8", "k_fp8", "k_scale", "weights")


def one_code(k_fp8: Tensor, **_: Tensor) -> dict[str, Tensor]:
    fp8.codes(k_fp8)[:, 40] ^= 1
    return {"k_fp8": k_fp8}


def without_last_dim(k_fp8: Tensor, **_: Tensor) -> dict[str, Tensor]:
    fp8.codes(k_fp8)[:, -1] = 0
    return {"k_fp8": k_fp8}


def without_last_head(weights: Tensor, **_: Tensor) -> dict[str, Tensor]:
    weights[:, -1] = 0
    return {"weights": weights}


def swapped_weights(weights: Tensor, **_: Tensor) -> dict[str, Tensor]:
    weights[:, [2, 7]] = weights[:, [7, 2]]
    return {"weights": weights}


def neighbour_s_scale(k_scale: Tensor, **_: Tensor) -> dict[str, Tensor]:
    return {"k_scale": k_scale.roll(1)}


def bf16_weights(weights: Tensor, **_: Tensor) -> dict[str, Tensor]:
    return {"weights": weights.bfloat16().float()}


def bf16_scale(k_scale: Tensor, **_: Tensor) -> dict[str, Tensor]:
    return {"k_scale": k_scale.bfloat16().float()}


def lost_token(k_scale: Tensor, **_: Tensor) -> dict[str, Tensor]:
    k_scale[17] = 0
    return {"k_scale": k_scale}


@pytest.mark.parametrize(
    "change",
    [
        one_code,
        without_last_dim,
        without_last_head,
        swapped_weights,
        neighbour_s_scale,
        bf16_weights,
        bf16_scale,
        lost_token,
    ],
)
def test_a_mutation_of_the_inputs_is_flagged(change: Callable[..., dict[str, Tensor]]) -> None:
    for seed in range(3):
        (found,) = judge(case(seed), on_inputs(change)).findings
        assert (found.stage, found.kind, found.tier) == ("prefill_logits", "bound-exceeded", "T1")


DOT = "tl.dot(k, tl.trans(q))"
STORE = "tl.store(logits_ptr + logits_at, logits,"
EDITS = {
    "no relu on one head": ("tl.maximum(scores, 0.0)", "tl.where(head == 3, scores, tl.maximum(scores, 0.0))"),
    "scores in fp16": (DOT, f"({DOT} / 1024).to(tl.float16).to(tl.float32) * 1024"),
    "scores in bf16": (DOT, f"{DOT}.to(tl.bfloat16).to(tl.float32)"),
    "scores in 32-dim partial sums": (DOT, "tl.dot(k, tl.trans(q), max_num_imprecise_acc=32)"),
    "logits in bf16": (STORE, STORE.replace("logits,", "logits.to(tl.bfloat16),")),
    "logits in fp16": (STORE, STORE.replace("logits,", "logits.to(tl.float16),")),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_mutation_of_the_kernels_is_flagged(name: str) -> None:
    edits = [(name, f"kernels/{file}.py", *EDITS[name]) for file in ("mqa_logits", "paged_mqa_logits")]
    mutant = builtin(edited_kernels(name.replace(" ", "-"), edits))
    for seed in range(2):
        found = judge(case(seed), mutant).findings
        assert {(f.stage, f.kind, f.tier) for f in found} == {(stage, "bound-exceeded", "T1") for stage in LOGITS}
