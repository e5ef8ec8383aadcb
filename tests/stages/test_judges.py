"""What judges say about mistakes that they know by name."""

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.oracles.differential import run
from indexfuzz.reference import gather, layout, legal, mqa_logits, paged_mqa_logits, quant
from indexfuzz.reference import rope as rope_reference
from indexfuzz.reference.mqa_logits import exact_scores, visible_range

CASE = Case().replace(
    model={"num_heads": 2, "head_dim": 32, "quant_group": 32},
    cache={"block_size": 16},
    batch={"decode": (40, 17), "prefill": ({"length": 40, "new": 7},), "next_n": 2, "max_model_len": 60},
    values={"cache": "normal", "k": "normal"},
)


def findings(case, implementation, device, stage):
    return [f for f in run(case, implementation, device).findings if f.stage == stage]


def arranged(name):
    """A gather that takes the cache to be arranged in a way of its own; out of bounds it reads what is there."""

    def read(*, cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, quant_group, **_):
        slots, valid = gather.gathered_slots(cache, block_table, cu_seqlens, token_to_seq)
        offsets = layout.arrangements(cache.shape[1], quant_group, cache.device)[name]
        codes, scales, inside = layout.read_arranged(cache, slots, *offsets)
        k_fp8.view(torch.uint8).copy_(torch.where(inside, codes, 0x31) * valid.unsqueeze(1))
        k_scale.copy_(scales * valid)

    return read


def test_a_shuffle_reader_is_recognised_in_pages_of_one_token(reference_with, pytorch_device):
    case = CASE.replace(cache={"block_size": 1})
    (found,) = findings(case, reference_with(gather=arranged("shuffle")), pytorch_device, "gather")
    assert (found.kind, found.output) == ("layout-mismatch", "k_fp8")
    assert "was read as the SHUFFLE layout" in found.detail


def test_an_interleaved_reader_is_recognised(reference_with, pytorch_device):
    found = findings(CASE, reference_with(gather=arranged("interleaved")), pytorch_device, "gather")
    assert [(f.kind, f.output) for f in found] == [("layout-mismatch", "k_fp8"), ("layout-mismatch", "k_scale")]


def without_relu_prefill(*, q_fp8, k_fp8, k_scale, weights, ks, ke, logits):
    scores = exact_scores(q_fp8[None], k_fp8[None])[0]
    summed = torch.einsum("rhn,rh->rn", scores, weights.double()) * k_scale
    logits.copy_(torch.where(visible_range(ks, ke, logits.shape[1]), summed, float("-inf")))


def test_a_forgotten_relu_is_recognised(reference_with, pytorch_device):
    implementation = reference_with(prefill_logits=without_relu_prefill)
    (found,) = findings(CASE, implementation, pytorch_device, "prefill_logits")
    assert found.kind == "bound-exceeded"
    assert found.detail.startswith("forgets the ReLU: ")


def test_poison_is_read_in_no_layout(reference_with, pytorch_device):
    """Of a page that holds one key every other arrangement reads what nobody wrote: that tells of none of them."""

    def poison(*, k_scale, **arguments):
        gather.gather(**arguments, k_scale=k_scale)
        k_scale.view(torch.uint8).fill_(0x7F)

    case = CASE.replace(batch={"decode": (), "prefill": ({"length": 1, "new": 0},)}, values={"cache": "zeros"})
    case = case.replace(cache={"block_size": 64, "layout": "normal"})
    (found,) = findings(case, reference_with(gather=poison), pytorch_device, "gather")
    assert (found.kind, found.output) == ("code-mismatch", "k_scale")


def test_no_mistake_is_named_that_was_not_made(reference_with, pytorch_device):
    def doubled(*, logits, **inputs):
        paged_mqa_logits.paged_mqa_logits(**inputs, logits=logits)
        logits *= 2

    def slightly_off(*, logits, **inputs):
        without_relu_prefill(**inputs, logits=logits)
        logits += (logits.abs() * 2.0**-9).nan_to_num(posinf=0)

    implementation = reference_with(paged_logits=doubled, prefill_logits=slightly_off)
    for stage in ("paged_logits", "prefill_logits"):
        (found,) = findings(CASE, implementation, pytorch_device, stage)
        assert "ReLU" not in found.detail
        assert found.kind == "bound-exceeded"


def test_where_the_relu_does_nothing_it_explains_nothing(reference_with, pytorch_device):
    """All scores are positive: an error far below what names a mistake is still not the ReLU's."""

    def off(*, logits, **inputs):
        mqa_logits.mqa_logits(**inputs, logits=logits)
        logits *= 1 + 2.0**-14

    case = CASE.replace(values={"q": "zeros", "cache": "zeros", "k": "zeros", "rope": "zeros", "weights": "exact"})
    ones = tuple((t, 0, 1, "0x1p0") for t in range(7))
    keys = tuple((t, 1, "0x1p0") for t in range(11))
    case = case.replace(batch={"decode": ()}, values={"set": {"q": ones, "k": keys}})
    (found,) = findings(case, reference_with(prefill_logits=off), pytorch_device, "prefill_logits")
    assert found.kind == "bound-exceeded"
    assert "ReLU" not in found.detail


def test_paged_logits_that_read_the_other_layout(reference_with, pytorch_device):
    def other(*, layout, **arguments):
        paged_mqa_logits.paged_mqa_logits(**arguments, layout="normal")

    (found,) = findings(CASE, reference_with(paged_logits=other), pytorch_device, "paged_logits")
    assert (found.kind, found.output) == ("layout-mismatch", "logits")
    assert found.detail.startswith("reads the NORMAL layout: ")


@pytest.mark.parametrize(("weight", "kind"), [("0x1p0", "layout-mismatch"), ("0x1p126", "bound-exceeded")])
def test_nan_tells_of_another_layout_only_where_nothing_overflows(reference_with, pytorch_device, weight, kind):
    def nan(*, logits, **arguments):
        paged_mqa_logits.paged_mqa_logits(**arguments, logits=logits)
        logits[torch.isfinite(logits)] = torch.nan

    case = CASE.replace(
        model={"num_heads": 16},
        cache={"block_size": 64},
        batch={"decode": (1,), "prefill": (), "next_n": 1, "max_model_len": 1},
        values={"q": "zeros", "cache": "zeros", "k": "zeros", "rope": "zeros", "weights": "zeros"},
    ).replace(values={"set": {"q": ((0, 0, 0, "0x1p0"),), "weights": ((0, 0, weight),)}})
    (found,) = findings(case, reference_with(paged_logits=nan), pytorch_device, "paged_logits")
    assert found.kind == kind


def test_a_contracted_rotation_is_legal_and_anything_else_is_not(reference_with, pytorch_device):
    def contracted(choice):
        def rotate(*, q, k, positions, cos_sin_cache, mode, **options):
            return tuple(legal.legal_rope(x, positions, cos_sin_cache, **options)[choice].clone() for x in (q, k))

        return rotate

    for choice in (0, 1, 2):
        assert findings(CASE, reference_with(rope=contracted(choice)), pytorch_device, "rope") == []

    def nudged(*, mode, **arguments):
        q, k = rope_reference.rope(**arguments)
        q.view(torch.int16)[3, 1, 2] += 1
        return q, k

    (found,) = findings(CASE, reference_with(rope=nudged), pytorch_device, "rope")
    assert (found.kind, found.output, found.index) == ("bound-exceeded", "q", (3, 1, 2))


def rope_without_k(*, q, k, mode, **arguments):
    rotated, _ = rope_reference.rope(q, k, **arguments)
    return rotated, torch.empty_like(k)


def quant_of_even_tokens(*, q, weights, **options):
    q_fp8, q_weights = quant.q_quant(q, weights, **options)
    codes, folded = torch.empty_like(q_fp8), torch.empty_like(q_weights)
    codes[::2], folded[::2] = q_fp8[::2], q_weights[::2]
    return codes, folded


def quant_without_weights(*, q, weights, **options):
    return quant.q_quant(q, weights, **options)[0], torch.empty_like(weights)


def selects_nothing(*, logits, index_topk):
    return torch.empty((len(logits), index_topk), dtype=torch.int32)


@pytest.mark.parametrize(
    ("stage", "function", "outputs"),
    [
        ("rope", rope_without_k, ["k"]),
        ("q_quant", quant_of_even_tokens, ["q_fp8"]),
        ("q_quant", quant_without_weights, ["q_weights"]),
        ("topk", selects_nothing, ["prefill_topk", "paged_topk"]),
    ],
)
def test_allocated_memory_that_is_returned_unwritten_is_called_so(
    stage, function, outputs, reference_with, pytorch_device
):
    found = findings(CASE, reference_with(**{stage: function}), pytorch_device, stage)
    assert [(f.kind, f.output) for f in found] == [("unwritten", output) for output in outputs]
    assert all("never written" in f.detail for f in found)


def test_unwritten_memory_is_no_name_for_other_mistakes(reference_with, pytorch_device):
    def also_wrong(*, q, weights, **options):
        codes, folded = quant_of_even_tokens(q=q, weights=weights, **options)
        folded[::2] *= 2
        return codes, folded

    (found,) = findings(CASE, reference_with(q_quant=also_wrong), pytorch_device, "q_quant")
    assert (found.kind, found.output) == ("code-mismatch", "q_fp8")


def test_a_selection_that_is_not_written_is_found_where_minus_one_is_right(reference_with, pytorch_device):
    """No row sees a column: what the memory held before must not happen to be the answer."""
    case = CASE.replace(batch={"decode": (0, 0), "prefill": ()})
    found = findings(case, reference_with(topk=selects_nothing), pytorch_device, "topk")
    assert [(f.kind, f.output, f.want) for f in found] == [("unwritten", "paged_topk", "-1")]
