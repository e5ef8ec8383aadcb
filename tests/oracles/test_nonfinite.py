"""NaN and infinities: nothing is blamed on correct kernels, and one that lets them spread or loses them is found."""

from dataclasses import replace

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.core.stage_names import TOPK
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.builtin import builtin
from indexfuzz.oracles.differential import run
from indexfuzz.oracles.metamorphic import runner
from indexfuzz.oracles.walk import launches
from indexfuzz.reference import cache as writer
from indexfuzz.reference import indexer, mqa_logits, paged_mqa_logits, quant, rope
from indexfuzz.stages.nonfinite import may_be_nonfinite

FINITE = Case().replace(
    model={"num_heads": 2, "head_dim": 32, "rope_dim": 16, "quant_group": 32},
    cache={"block_size": 16, "pages": "permuted", "spare_blocks": 2},
    batch={
        "decode": (40, 3, 17),
        "prefill": ({"length": 40, "new": 7}, {"length": 9, "new": 9}),
        "next_n": 2,
        "max_model_len": 60,
        "pad_tokens": 2,
        "gather_pad": 2,
    },
    values={"seed": 5},
)
EVERYWHERE = FINITE.replace(values={"q": "nonfinite", "k": "nonfinite", "weights": "nonfinite", "cache": "nonfinite"})
VARIANTS = [
    EVERYWHERE,
    FINITE.replace(values={"q": "nonfinite"}),
    FINITE.replace(values={"k": "nonfinite"}, model={"fp8": "e4m3fnuz", "scale_fmt": "fp32"}),
    FINITE.replace(values={"weights": "nonfinite"}, cache={"layout": "normal", "page_pad": 132}),
    FINITE.replace(values={"cache": "nonfinite", "k": "nonfinite"}, batch={"lens": "ragged", "empty_windows": True}),
]


def signatures(outcome):
    return {str(finding.signature) for finding in outcome.findings}


def spreads_over_the_batch(*, q, weights, **options):
    """One scale for all tokens."""
    q_fp8, q_weights = quant.q_quant(q, weights, **options)
    if not bool(torch.isfinite(q.float()).all()):
        q_weights = q_weights * float("inf")
    return q_fp8, q_weights


def spreads_over_the_page(*, k, cache, slot_mapping, **rest):
    writer.k_quant_cache(k=k, cache=cache, slot_mapping=slot_mapping, **rest)
    bad = ~torch.isfinite(k.float()).all(1)[: len(slot_mapping)]
    for page in (slot_mapping[bad] // cache.shape[1]).unique().tolist():
        if page >= 0:
            cache[page, 0, 0] ^= 1


def spreads_over_the_columns(*, q_fp8, k_fp8, logits, **rest):
    mqa_logits.mqa_logits(q_fp8=q_fp8, k_fp8=k_fp8, logits=logits, **rest)
    bad = torch.isnan(k_fp8.float()).any(1).nonzero().flatten()
    after = (bad + 1).clamp_max(logits.shape[1] - 1)
    logits[:, after] = torch.where(torch.isfinite(logits[:, after]), float("nan"), logits[:, after])


def spreads_over_the_sequences(*, logits, weights, **rest):
    paged_mqa_logits.paged_mqa_logits(logits=logits, weights=weights, **rest)
    if not bool(torch.isfinite(weights).all()):
        logits[torch.isfinite(logits)] += float("nan")


def spreads_over_the_tokens(*, q, k, mode, **rest):
    new_q, new_k = rope.rope(q, k, **rest)
    return new_q, new_k + (new_k.sum() * 0)


def gives_up_on_nan(*, logits, index_topk):
    if bool(torch.isnan(logits).any()):
        return torch.full((len(logits), index_topk), -1, dtype=torch.int32)
    return indexer.topk(logits, index_topk=index_topk)


PLANTED = [
    ("rope", spreads_over_the_tokens, "k"),
    ("q_quant", spreads_over_the_batch, "q_weights"),
    ("k_quant_cache", spreads_over_the_page, "cache"),
    ("prefill_logits", spreads_over_the_columns, "logits"),
    ("paged_logits", spreads_over_the_sequences, "logits"),
    ("topk", gives_up_on_nan, "prefill_topk"),
]


NAN_WEIGHT = {"set": {"weights": ((9, 0, "nan"),)}}


@pytest.mark.parametrize(
    ("case", "dot"), [*((case, "ieee") for case in VARIANTS), (VARIANTS[2], "cdna3"), (EVERYWHERE, "sm90")]
)
def test_the_kernels_are_not_blamed(case, dot):
    device = LockstepDevice(dot=dot)
    assert signatures(run(case, builtin(), device)) == set()
    assert signatures(runner.run(case, builtin(), device)) == set()


@pytest.mark.parametrize("case", VARIANTS)
def test_the_reference_is_not_blamed(case, reference_with, pytorch_device):
    assert signatures(run(case, reference_with(), pytorch_device)) == set()
    assert signatures(runner.run(case, reference_with(), pytorch_device)) == set()


@pytest.mark.parametrize(("stage", "function", "output"), PLANTED)
def test_what_spreads_is_found(stage, function, output, reference_with, pytorch_device):
    tested = reference_with(**{stage: function})
    found = signatures(runner.run(EVERYWHERE, tested, pytorch_device, frozenset({stage})))
    assert f"{stage}/metamorphic/nonfinite-contained/{output}" in found
    assert {s.split("/")[0] for s in signatures(run(EVERYWHERE, tested, pytorch_device))} == {stage}


@pytest.mark.parametrize(("stage", "function", "output"), PLANTED)
def test_without_nan_none_of_these_mistakes_shows(stage, function, output, reference_with, pytorch_device):
    assert signatures(run(FINITE, reference_with(**{stage: function}), pytorch_device)) == set()


def test_a_finite_mistake_in_a_finite_row_is_still_found(reference_with, pytorch_device):
    def doubled(*, logits, **rest):
        mqa_logits.mqa_logits(logits=logits, **rest)
        logits *= 2

    case = FINITE.replace(values={"cache": "nonfinite"})
    assert signatures(run(case, reference_with(prefill_logits=doubled), pytorch_device)) == {
        "prefill_logits/bound-exceeded/logits"
    }


def test_a_hidden_column_is_hidden_from_rows_with_nan_too(reference_with, pytorch_device):
    def nan_everywhere(*, weights, logits, **rest):
        mqa_logits.mqa_logits(weights=weights, logits=logits, **rest)
        logits[~torch.isfinite(weights).all(1)] = float("nan")

    case = FINITE.replace(values=NAN_WEIGHT)
    assert signatures(run(case, reference_with(prefill_logits=nan_everywhere), pytorch_device)) == {
        "prefill_logits/mask-mismatch/logits"
    }


def with_triton_s_promise(function, stage):
    return replace(builtin(), stages={stage: function})


def nan_as_zero(*, k, **rest):
    writer.k_quant_cache(k=k.nan_to_num(0.0, float("inf"), float("-inf")), **rest)


def infinities_saturate(*, k, **rest):
    writer.k_quant_cache(k=k.clamp(-(2.0**100), 2.0**100), **rest)


def nan_passes_the_relu(*, q_fp8, logits, **rest):
    """torch.relu keeps NaN, tl.maximum does not."""
    mqa_logits.mqa_logits(q_fp8=q_fp8, logits=logits, **rest)


def nan_weight_is_lost(*, weights, **rest):
    mqa_logits.mqa_logits(weights=weights.nan_to_num(0.0), **rest)


@pytest.mark.parametrize(
    ("stage", "function", "values", "signature"),
    [
        ("k_quant_cache", nan_as_zero, {"k": "nonfinite"}, "code-mismatch/cache_values/nonfinite"),
        ("k_quant_cache", infinities_saturate, {"k": "nonfinite"}, "code-mismatch/cache_values/nonfinite"),
        ("prefill_logits", nan_passes_the_relu, {"cache": "nonfinite"}, "bound-exceeded/logits"),
        ("prefill_logits", nan_weight_is_lost, NAN_WEIGHT, "bound-exceeded/logits/nonfinite"),
    ],
)
def test_a_project_that_promises_triton_s_rules_is_held_to_them(
    stage, function, values, signature, reference_with, pytorch_device
):
    case = FINITE.replace(values=values)
    tested = with_triton_s_promise(function, stage)
    assert signatures(run(case, tested, pytorch_device, frozenset({stage}))) == {f"{stage}/{signature}"}
    assert signatures(run(case, reference_with(**{stage: function}), pytorch_device)) == set()


def test_a_drawn_case_is_recognised():
    assert may_be_nonfinite(EVERYWHERE)
    assert may_be_nonfinite(FINITE.replace(values={"set": {"k": ((0, 0, "nan"),)}}))
    assert not may_be_nonfinite(FINITE.replace(values={"set": {"k": ((0, 0, "0x1p3"),)}}))
    assert not may_be_nonfinite(FINITE)


SETS = {"q": ((8, 0, 0, "0x1.0p+15"),), "weights": ((8, 0, "-0x1.fe00000000000p+127"),)}
OVERFLOWING = FINITE.replace(values={"q": "zeros", "weights": "zeros", "cache": "exact", "set": SETS})


@pytest.mark.parametrize("case", [EVERYWHERE, OVERFLOWING])
def test_nan_logits_of_the_reference_are_positive_as_those_of_a_gpu(case):
    """With the sign that x86 gives them they come last in a top-k that sorts by bits."""
    given = [call.tensors["logits"] for stage, _, call in launches(case, LockstepDevice()) if stage.name == TOPK]
    nans = torch.cat([logits[logits.isnan()] for logits in given])
    assert len(nans)
    assert not nans.signbit().any()
