"""Every relation fires on a mistake that breaks it, and is silent on the reference and the built-in kernels."""

from dataclasses import replace

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Promises
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.builtin import builtin
from indexfuzz.oracles.metamorphic.catalogue import COMPILED, RELATIONS
from indexfuzz.oracles.metamorphic.runner import run
from indexfuzz.reference import cache as writer
from indexfuzz.reference import gather as gatherer
from indexfuzz.reference import indexer, mqa_logits, paged_mqa_logits, quant, rope
from indexfuzz.reference import layout as layouts
from indexfuzz.stages.table import OPERATIONS, STAGES

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
    memory={"k_pad": 16, "table_extra": 1},
)
SMALL = {"model": {"num_heads": 1, "scale_fmt": "fp32", "fp8": "e4m3fnuz"}, "cache": {"block_size": 1, "page_pad": 0}}
RAGGED = {"batch": {"lens": "ragged", "empty_windows": True, "short_slots": True}, "values": {"q": "exact"}}
RELATION = {relation.name: relation for relation in (*RELATIONS, COMPILED)}
VARIANTS = [
    CASE,
    CASE.replace(**SMALL),
    CASE.replace(**RAGGED),
    CASE.replace(rope={"mode": "inplace"}, cache={"shared_prefix": True, "layout": "normal"}),
]


def page_number_matters(*, block_table, k_scale, **rest):
    gatherer.gather(block_table=block_table, k_scale=k_scale, **rest)
    k_scale[: int(block_table[0, 0])] *= 2


def slot_number_matters(*, slot_mapping, k, **rest):
    odd = (slot_mapping % 32 == 7).nonzero().flatten()
    k = k.clone()
    k[odd] *= 4
    writer.k_quant_cache(slot_mapping=slot_mapping, k=k, **rest)


def only_right_for_pages_of_16(*, cache, logits, **rest):
    paged_mqa_logits.paged_mqa_logits(cache=cache, logits=logits, **rest)
    logits[:, 16:] *= cache.shape[1] / 16


def takes_pages_for_tight(*, cache, **rest):
    _, block_size, token = cache.shape
    tight = cache.as_strided(cache.shape, (block_size * token, token, 1), cache.storage_offset())
    gatherer.gather(cache=tight, **rest)


def writes_tight_pages(*, cache, **rest):
    _, block_size, token = cache.shape
    writer.k_quant_cache(
        cache=cache.as_strided(cache.shape, (block_size * token, token, 1), cache.storage_offset()), **rest
    )


def always_normal(*, layout, **rest):
    gatherer.gather(layout="normal", **rest)


def width_matters(*, block_table, logits, **rest):
    paged_mqa_logits.paged_mqa_logits(block_table=block_table, logits=logits, **rest)
    logits *= block_table.shape[1]


def all_rows_see_the_last_one_s_window(*, q_fp8, context_lens, **rest):
    lens = paged_mqa_logits.row_windows(context_lens, q_fp8.shape[1], rest["logits"].shape[1])
    lens = lens.amax(1, keepdim=True).expand_as(lens).int()
    paged_mqa_logits.paged_mqa_logits(q_fp8=q_fp8, context_lens=lens, **rest)


def first_row_doubled(*, logits, **rest):
    mqa_logits.mqa_logits(logits=logits, **rest)
    logits[0] *= 2


def first_sequence_doubled(*, logits, **rest):
    paged_mqa_logits.paged_mqa_logits(logits=logits, **rest)
    logits[0] *= 2


def second_sequence_read_from_the_first_s_pages(*, block_table, **rest):
    table = block_table.clone()
    table[1:] = table[:1]
    gatherer.gather(block_table=table, **rest)


def neighbouring_slots(*, slot_mapping, **rest):
    swapped = slot_mapping.clone()
    swapped[:2] = slot_mapping[:2].flip(0)
    writer.k_quant_cache(slot_mapping=swapped, **rest)


def first_key_stays(*, cache, layout, slot_mapping, **rest):
    """Takes a slot with a scale for one that need not be written again, as if no draft was ever rejected."""
    slots = slot_mapping.clone()
    kept = (slots >= 0).nonzero().flatten()
    _, scales = layouts.read_tokens(cache, slots[kept].long(), layouts.resolve(layout, cache.shape[1]))
    slots[kept[scales.isfinite() & (scales > 0)]] = -1
    writer.k_quant_cache(cache=cache, layout=layout, slot_mapping=slots, **rest)


def first_token_unrotated(*, q, k, mode, **rest):
    new_q, new_k = rope.rope(q, k, **rest)
    new_k[0] = k[0]
    return new_q, new_k


def first_token_in_another_scale(q, weights, **options):
    q_fp8, q_weights = quant.q_quant(q, weights, **options)
    q_weights[0] *= 1.25
    return q_fp8, q_weights


def large_batches_are_wrong(*, logits, **rest):
    mqa_logits.mqa_logits(logits=logits, **rest)
    if len(logits) > 9:
        logits += 1.0


def first_row_sorted_the_wrong_way(logits, **options):
    chosen = indexer.topk(logits, **options)
    chosen[0] = indexer.topk(-logits[:1].nan_to_num(neginf=0), **options)
    return chosen


def window_start_rounded_down(*, ks, **rest):
    mqa_logits.mqa_logits(ks=ks // 16 * 16, **rest)


def last_head_lost(*, weights, **rest):
    kept = weights.clone()
    kept[:, -1] = 0
    mqa_logits.mqa_logits(weights=kept, **rest)


def last_head_unquantised(q, weights, **options):
    q_fp8, q_weights = quant.q_quant(q, weights, **options)
    q_fp8.view(torch.uint8)[:, -1] = 0
    return q_fp8, q_weights


def last_head_unrotated(*, q, k, mode, **rest):
    new_q, new_k = rope.rope(q, k, **rest)
    new_q[:, -1] = q[:, -1]
    return new_q, new_k


def with_a_bias(*, logits, **rest):
    paged_mqa_logits.paged_mqa_logits(logits=logits, **rest)
    logits += 2.0**-8


def weights_clamped(q, weights, **options):
    return quant.q_quant(q, weights.clamp(-0.25, 0.25), **options)


def k_forgotten_in_place(*, q, k, mode, **rest):
    new_q, new_k = rope.rope(q, k, **rest)
    if mode == "inplace":
        q.copy_(new_q)
        return q, k
    return new_q, new_k


def compiled_wrongly(*, q, k, mode, **rest):
    new_q, new_k = rope.rope(q, k, **rest)
    return (new_q, k) if mode == "compiled" else (new_q, new_k)


PLANTED = [
    ("pages-permuted", "gather", page_number_matters, "k_scale"),
    ("pages-permuted", "k_quant_cache", slot_number_matters, "cache_scales"),
    ("block-size", "paged_logits", only_right_for_pages_of_16, "logits"),
    ("page-stride", "gather", takes_pages_for_tight, "k_fp8"),
    ("page-stride", "k_quant_cache", writes_tight_pages, "cache_values"),
    ("layout", "gather", always_normal, "k_fp8"),
    ("table-width", "paged_logits", width_matters, "logits"),
    ("next-n", "paged_logits", all_rows_see_the_last_one_s_window, "logits"),
    ("batch-permuted", "prefill_logits", first_row_doubled, "logits"),
    ("batch-permuted", "paged_logits", first_sequence_doubled, "logits"),
    ("batch-permuted", "gather", second_sequence_read_from_the_first_s_pages, "k_fp8"),
    ("batch-permuted", "k_quant_cache", neighbouring_slots, "cache_values"),
    ("batch-permuted", "rope", first_token_unrotated, "k"),
    ("batch-permuted", "q_quant", first_token_in_another_scale, "q_weights"),
    ("batch-permuted", "topk", first_row_sorted_the_wrong_way, "prefill_topk"),
    ("batch-split", "prefill_logits", large_batches_are_wrong, "logits"),
    ("batch-split", "paged_logits", first_sequence_doubled, "logits"),
    ("batch-split", "gather", second_sequence_read_from_the_first_s_pages, "k_fp8"),
    ("batch-split", "k_quant_cache", neighbouring_slots, "cache_values"),
    ("batch-split", "rope", first_token_unrotated, "k"),
    ("batch-split", "q_quant", first_token_in_another_scale, "q_weights"),
    ("batch-split", "topk", first_row_sorted_the_wrong_way, "prefill_topk"),
    ("steps", "k_quant_cache", first_key_stays, "cache_values"),
    ("window-shifted", "prefill_logits", window_start_rounded_down, "logits"),
    ("prefill-decode", "paged_logits", first_sequence_doubled, "logits"),
    ("heads-permuted", "prefill_logits", last_head_lost, "logits"),
    ("heads-permuted", "q_quant", last_head_unquantised, "q_fp8"),
    ("heads-permuted", "rope", last_head_unrotated, "q"),
    ("weights-doubled", "paged_logits", with_a_bias, "logits"),
    ("weights-doubled", "q_quant", weights_clamped, "q_weights"),
    ("rope-mode", "rope", k_forgotten_in_place, "k"),
    ("rope-compiled", "rope", compiled_wrongly, "k"),
]


@pytest.mark.parametrize(("name", "stage", "function", "output"), PLANTED)
def test_a_broken_relation_is_found(name, stage, function, output, reference_with, pytorch_device):
    tested = reference_with(**{stage: function})
    found = run(CASE, tested, pytorch_device, frozenset({stage}), (RELATION[name],)).findings
    assert f"{stage}/metamorphic/{name}/{output}" in {str(finding.signature) for finding in found}
    assert all(RELATION[name].change in finding.detail for finding in found)


def test_every_relation_is_broken_by_some_mistake():
    assert {name for name, *_ in PLANTED} == set(RELATION)


@pytest.mark.parametrize("case", VARIANTS)
def test_the_reference_satisfies_every_relation(case, reference_with, pytorch_device):
    assert run(case, reference_with(), pytorch_device, relations=(*RELATIONS, COMPILED)).findings == []


@pytest.mark.parametrize(("case", "dot"), [*((case, "ieee") for case in VARIANTS), (CASE, "sm90"), (CASE, "cdna3")])
def test_the_kernels_satisfy_every_relation(case, dot):
    outcome = run(case, builtin(), LockstepDevice(dot=dot))
    assert outcome.findings == []
    beside = [operation for operation in OPERATIONS if case.model.scale_fmt == "ue8m0" or len(operation.covers) == 1]
    assert outcome.stages == [stage.name for stage in (*beside, *STAGES)]


def test_a_twin_that_fails_is_a_finding(reference_with, pytorch_device):
    def needs_a_multiple_of_8(*, block_table, **rest):
        if block_table.shape[1] % 4:
            raise RuntimeError("misaligned table")
        gatherer.gather(block_table=block_table, **rest)

    tested = reference_with(gather=needs_a_multiple_of_8)
    (found,) = run(CASE, tested, pytorch_device, frozenset({"gather"}), (RELATION["table-width"],)).findings
    assert str(found.signature) == "gather/metamorphic/table-width/RuntimeError"
    assert "misaligned table" in found.detail


def test_another_stage_that_is_wrong_or_fails_confirms_nothing(reference_with, pytorch_device):
    def fails(**_):
        raise RuntimeError("boom")

    only, relations = frozenset({"paged_logits"}), (RELATION["prefill-decode"],)
    for other in (first_row_doubled, fails):
        assert run(CASE, reference_with(prefill_logits=other), pytorch_device, only, relations).findings == []


def last_bit_depends_on_the_row(*, logits, **rest):
    mqa_logits.mqa_logits(logits=logits, **rest)
    bits = logits[0].view(torch.int32)
    bits += logits[0].isfinite() & (logits[0] != 0)


@pytest.mark.parametrize("promised", [True, False])
def test_who_does_not_promise_batch_invariance_need_not_repeat_its_bits(promised, reference_with, pytorch_device):
    relation = RELATION["batch-permuted"]
    promises = Promises(batch_invariant=promised)
    near = replace(reference_with(prefill_logits=last_bit_depends_on_the_row), promises=promises)
    found = run(CASE, near, pytorch_device, relations=(relation,)).findings
    assert [finding.output for finding in found] == ["logits"] * promised
    wrong = replace(reference_with(prefill_logits=first_row_doubled), promises=promises)
    assert run(CASE, wrong, pytorch_device, relations=(relation,)).findings


def test_a_stage_that_fails_by_itself_is_left_to_others(reference_with, pytorch_device):
    def fails(**_):
        raise RuntimeError("boom")

    assert run(CASE, reference_with(gather=fails), pytorch_device, frozenset({"gather"})).findings == []


def test_a_case_outside_the_contract_has_no_twins(reference_with, pytorch_device):
    outcome = run(CASE.replace(cache={"block_size": 24}), reference_with(), pytorch_device)
    assert "gather" not in outcome.stages
    assert outcome.findings == []


def test_inputs_are_as_before(reference_with, pytorch_device):
    def scribbles(*, block_table, **rest):
        gatherer.gather(block_table=block_table, **rest)
        block_table.zero_()

    tested = reference_with(gather=scribbles)
    assert run(CASE, tested, pytorch_device, frozenset({"gather"}), (RELATION["layout"],)).findings == []


@pytest.mark.parametrize("seed", range(6))
def test_relations_hold_where_pages_and_keys_are_missing(reference_with, pytorch_device, seed):
    case = Case().replace(
        cache={"block_size": 16},
        batch={
            "decode": (40, 3),
            "prefill": ({"length": 40, "new": 3}, {"length": 9, "new": 2}),
            "next_n": 2,
            "max_model_len": 60,
            "gather_pad": 3,
            "pad_seq": "last",
            "gather_holes": 3,
            "long_windows": True,
        },
        memory={"missing_pages": 5, "logits_pad": 1, "k_fp8_pad": 1, "q_fp8_pad": 1, "q_weights_pad": 1},
        values={"seed": seed},
    )
    assert run(case, reference_with(), pytorch_device).findings == []
