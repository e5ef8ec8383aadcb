"""Differential: silent on the reference itself, and every planted mistake is blamed on its stage."""

from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Promises
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.oracles.differential import run
from indexfuzz.reference import cache, gather, indexer, layout, mqa_logits, paged_mqa_logits, quant, rope
from indexfuzz.stages.table import STAGES

CASE = Case().replace(
    model={"num_heads": 2, "head_dim": 32, "rope_dim": 16, "quant_group": 32},
    cache={"block_size": 16, "pages": "permuted", "spare_blocks": 2, "page_pad": 132},
    batch={
        "decode": (40, 3, 17),
        "prefill": ({"length": 40, "new": 7}, {"length": 9, "new": 9}),
        "next_n": 2,
        "max_model_len": 60,
        "pad_tokens": 2,
        "gather_pad": 2,
    },
    memory={"k_pad": 16},
)


def signatures(outcome):
    return {str(finding.signature) for finding in outcome.findings}


def test_the_reference_has_no_findings(reference_with, pytorch_device):
    for mode in ("inplace", "functional"):
        outcome = run(CASE.replace(rope={"mode": mode}), reference_with(), pytorch_device)
        assert outcome.findings == []
        assert outcome.stages == [stage.name for stage in STAGES]


def half_rotated(q, k, *args, mode, **kwargs):
    return rope.rope(q, k, *args, **kwargs)[0], k


def neighbouring_key(k, cache_, slot_mapping, **options):
    return cache.k_quant_cache(k.roll(1, 0), cache_, slot_mapping, **options)


def other_layout(*args, layout, **options):
    return gather.gather(*args, layout="normal", **options)


def other_layout_write(*args, layout, **options):
    return cache.k_quant_cache(*args, layout="normal", **options)


def no_window(q_fp8, k_fp8, k_scale, weights, ks, ke, logits):
    mqa_logits.mqa_logits(q_fp8, k_fp8, k_scale, weights, torch.zeros_like(ks), ke, logits)


def doubled(*args, logits, **options):
    paged_mqa_logits.paged_mqa_logits(*args, logits=logits, **options)
    logits[0] *= 2


def unwritten(q_fp8, cache, weights, context_lens, block_table, logits, **options):
    fresh = torch.empty_like(logits)
    paged_mqa_logits.paged_mqa_logits(q_fp8, cache, weights, context_lens, block_table, fresh, **options)
    logits[:, :40] = fresh[:, :40]


def double_weights(q, weights, **options):
    return quant.q_quant(q, weights * 2, **options)


def worst(logits, **options):
    return indexer.topk(-logits.nan_to_num(neginf=0), **options)


@pytest.mark.parametrize(
    ("stage", "function", "signature"),
    [
        ("rope", half_rotated, "rope/bound-exceeded/k"),
        ("q_quant", double_weights, "q_quant/bound-exceeded/q_weights"),
        ("k_quant_cache", neighbouring_key, "k_quant_cache/code-mismatch/cache_scales"),
        ("k_quant_cache", other_layout_write, "k_quant_cache/layout-mismatch/cache_values"),
        ("gather", other_layout, "gather/layout-mismatch/k_fp8"),
        ("prefill_logits", no_window, "prefill_logits/mask-mismatch/logits"),
        ("paged_logits", doubled, "paged_logits/bound-exceeded/logits"),
        ("paged_logits", unwritten, "paged_logits/unwritten/logits"),
        ("topk", worst, "topk/illegal-topk/prefill_topk"),
    ],
)
def test_a_planted_mistake_is_blamed_on_its_stage_alone(stage, function, signature, reference_with, pytorch_device):
    by_position = function if stage not in ("k_quant_cache", "gather", "paged_logits") else _positional(function)
    found = signatures(run(CASE, reference_with(**{stage: by_position}), pytorch_device))
    assert signature in found
    assert {s.split("/")[0] for s in found} == {stage}


def _positional(function):
    """Stages get tensors by keyword; the mistakes above rename or forward them."""

    def call(**arguments):
        tensors = {name: value for name, value in arguments.items() if isinstance(value, torch.Tensor)}
        options = {name: value for name, value in arguments.items() if name not in tensors}
        if function is doubled:
            return function(*[t for n, t in tensors.items() if n != "logits"], logits=tensors["logits"], **options)
        return function(*tensors.values(), **options)

    return call


def test_writing_to_an_input_is_noticed_and_undone(reference_with, pytorch_device):
    def scribble(q, weights, **options):
        result = quant.q_quant(q, weights, **options)
        weights[1, 1] = 7.0
        return result

    outcome = run(CASE, reference_with(q_quant=scribble), pytorch_device)
    assert signatures(outcome) == {"q_quant/input-mutated/weights"}
    assert outcome.findings[0].index == (1, 1)


def test_writing_beyond_an_output_is_noticed(reference_with, pytorch_device):
    def overrun(q_fp8, k_fp8, k_scale, weights, ks, ke, logits):
        mqa_logits.mqa_logits(q_fp8, k_fp8, k_scale, weights, ks, ke, logits)
        logits.as_strided((logits.numel() + 1,), (1,))[-1] = 0.0

    outcome = run(CASE, reference_with(prefill_logits=overrun), pytorch_device)
    assert signatures(outcome) == {"prefill_logits/guard-write/prefill_logits"}


def test_an_exception_is_a_crash_and_an_unexpected_value_error_a_rejection(reference_with, pytorch_device):
    def crash(**_):
        raise RuntimeError("boom")

    def reject(**_):
        raise ValueError("no")

    outcome = run(CASE, reference_with(gather=crash, q_quant=reject), pytorch_device)
    assert signatures(outcome) == {"gather/crash/RuntimeError", "q_quant/rejected/ValueError"}
    assert "test_differential.py" in outcome.findings[0].location


@triton.jit
def _asserts(x, LIMIT: tl.constexpr):
    tl.static_assert(LIMIT > 4, "too small")


@triton.jit
def _mistyped(x, BLOCK: tl.constexpr):
    tl.store(x + tl.arange(0, 2 * BLOCK), tl.zeros([BLOCK], tl.float32))


@pytest.mark.parametrize(
    ("kernel", "detail"),
    [(_asserts, "AssertionError: too small"), (_mistyped, "ValueError: Cannot make_shape_compatible")],
)
def test_what_a_kernel_raises_is_a_crash_at_its_own_line(kernel, detail, reference_with):
    def launch(q, **_):
        kernel[(1,)](q, 4)

    outcome = run(CASE, reference_with(q_quant=launch), LockstepDevice(), only=frozenset({"q_quant"}))
    (finding,) = outcome.findings
    assert (finding.kind, finding.output) == ("crash", detail.split(":")[0])
    assert finding.detail.startswith(detail)
    first = kernel.starting_line_number
    file, line = finding.location.rsplit(":", 1)
    assert file == __file__
    assert first <= int(line) <= first + 2


@pytest.mark.parametrize("result", [None, torch.zeros(3), (torch.zeros(3), 4)])
def test_a_malformed_result_is_a_shape_finding(result, reference_with, pytorch_device):
    outcome = run(CASE, reference_with(q_quant=lambda **_: result), pytorch_device)
    assert signatures(outcome) == {"q_quant/shape"}


def test_a_wrong_dtype_is_a_shape_finding(reference_with, pytorch_device):
    def half(q, weights, **options):
        q_fp8, folded = quant.q_quant(q, weights, **options)
        return q_fp8, folded.bfloat16()

    outcome = run(CASE, reference_with(q_quant=half), pytorch_device)
    assert signatures(outcome) == {"q_quant/shape/q_weights"}


def test_outside_the_contract_nothing_is_judged(reference_with, pytorch_device):
    case = CASE.replace(cache={"block_size": 24})
    outcome = run(case, reference_with(), pytorch_device)
    assert outcome.findings == []
    assert set(outcome.outside) == {"k_quant_cache", "gather", "paged_logits"}


def test_only_named_stages_are_used(reference_with, pytorch_device):
    outcome = run(CASE, reference_with(), pytorch_device, frozenset({"gather"}))
    assert outcome.stages == ["gather"]


@pytest.mark.parametrize("mode", ["inplace", "functional"])
def test_a_key_that_lies_in_a_wider_projection_reaches_the_cache_with_its_stride(mode, reference_with, pytorch_device):
    strides = []

    def watching(k, **given):
        strides.append(k.stride())
        cache.k_quant_cache(k, **given)

    outcome = run(CASE.replace(rope={"mode": mode}), reference_with(k_quant_cache=watching), pytorch_device)
    assert outcome.findings == []
    assert strides == [(48, 1)]


def test_keys_that_have_no_right_result_are_zeros_to_the_stages_that_read_them(reference_with, pytorch_device):
    """With two scales for a token nothing right can be stored; decode then reads keys of zeros, not poison."""
    seen = []

    def record(*, cache, block_table, **arguments):
        seen.append(cache[int(block_table[0, 0])].clone())
        paged_mqa_logits.paged_mqa_logits(cache=cache, block_table=block_table, **arguments)

    case = Case().replace(
        model={"num_heads": 1, "head_dim": 32, "quant_group": 16},
        cache={"block_size": 16},
        batch={"decode": (1,), "max_model_len": 1},
    )
    outcome = run(case, reference_with(paged_logits=record), pytorch_device)
    assert "k_quant_cache" in outcome.outside
    assert outcome.findings == []
    codes, scales = layout.read_tokens(seen[0].unsqueeze(0), torch.tensor([0]), "shuffle")
    assert not bool(codes.any())
    assert not bool(scales.any())


@pytest.mark.parametrize("is_promised", [False, True])
def test_the_order_of_selections_counts_where_it_is_promised(is_promised, reference_with, pytorch_device):
    def smallest_first(logits, *, index_topk):
        right = indexer.topk(logits, index_topk=index_topk)
        last = (right >= 0).sum(1, keepdim=True) - 1
        entry = torch.arange(index_topk)
        return right.gather(1, torch.where(entry <= last, last - entry, entry))

    tested = replace(reference_with(topk=_positional(smallest_first)), promises=Promises(sorted_topk=is_promised))
    found = signatures(run(CASE, tested, pytorch_device))
    wanted = {f"topk/illegal-topk/{name}/order" for name in ("prefill_topk", "paged_topk")}
    assert {str(signature) for signature in found} == (wanted if is_promised else set())
    in_order = replace(reference_with(), promises=Promises(sorted_topk=True))
    assert run(CASE, in_order, pytorch_device).findings == []
