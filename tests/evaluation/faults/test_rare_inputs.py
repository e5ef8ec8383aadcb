"""Inputs that kernels promise to take and callers rarely make: right kernels pass, and each input shows a mistake."""

from dataclasses import replace
from itertools import islice

import pytest

from indexfuzz.core.case import Case
from indexfuzz.devices import open_device
from indexfuzz.generation.stream import stream_cases
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults import load_faults, plant
from indexfuzz.implementations.faults.planting import edited_kernels
from indexfuzz.oracles import composition
from indexfuzz.oracles.differential import run

DEVICE = open_device("lockstep")
TAKE_WEIGHTS = frozenset({"q_quant", "fused_q", "prefill_logits", "paged_logits"})
CASE = Case().replace(
    model={"num_heads": 2, "head_dim": 32, "rope_dim": 16, "quant_group": 32},
    cache={"block_size": 16, "spare_blocks": 2},
    batch={
        "decode": (18, 3, 1),
        "prefill": ({"length": 20, "new": 5}, {"length": 3, "new": 3}),
        "next_n": 2,
        "max_model_len": 20,
        "gather_pad": 3,
    },
    memory={"table_extra": 1},
)

MISTAKES = {
    "padding of a real sequence": (
        "gather",
        "& (token < tl.load(cu_seqlens_ptr + num_seqs))",
        "",
        {"batch": {"pad_seq": "last"}},
    ),
    "holes": ("gather", "& (seq < num_seqs)", "", {"batch": {"gather_holes": 3}}),
    "missing pages, gathered": (
        "gather",
        "(block >= 0) & (block < num_blocks)",
        "block >= 0",
        {"memory": {"missing_pages": 6, "table_tail": "num-blocks"}},
    ),
    "missing pages, scored": (
        "paged_mqa_logits",
        "is_cached = is_seen & is_page",
        "is_cached = is_seen",
        {"memory": {"missing_pages": 6}},
    ),
    "long windows": (
        "mqa_logits",
        "tl.minimum(tl.load(ke_ptr + row, mask=is_valid_row, other=0), end_key)",
        "tl.load(ke_ptr + row, mask=is_valid_row, other=0)",
        {"batch": {"long_windows": True}},
    ),
    "strided gathered keys": ("mqa_logits", "k_fp8.stride(0),", "head_dim,", {"memory": {"k_fp8_pad": 16}}),
    "strided q": ("mqa_logits", "q_fp8.stride(0),", "num_heads * head_dim,", {"memory": {"q_fp8_pad": 16}}),
    "strided weights": ("paged_mqa_logits", "weights.stride(0),", "num_heads,", {"memory": {"q_weights_pad": 1}}),
    "heads of weights apart, in prefill": (
        "mqa_logits",
        "weights.stride(1),",
        "1,",
        {"memory": {"q_weights_head_pad": 1}},
    ),
    "heads of weights apart, fused": ("fused", "weights.stride(1),", "1,", {"memory": {"weights_head_pad": 1}}),
    "strided logits": ("paged_mqa_logits", "logits.stride(0),", "max_model_len,", {"memory": {"logits_pad": 8}}),
    "strided angles": (
        "rope",
        "cos_sin_cache.stride(0),",
        "cos_sin_cache.shape[-1],",
        {"memory": {"angles_pad": 8}},
    ),
    "values beyond fp16": (
        "rope",
        "tl.split(x.to(tl.float32))",
        "tl.split(x.to(tl.float16))",
        {"values": {"k": "large"}},
    ),
    "far k": (
        "cache",
        "tl.program_id(0).to(tl.int64) * TOKENS",
        "tl.program_id(0) * TOKENS",
        {"memory": {"far": "k"}},
    ),
    "far q_fp8": (
        "mqa_logits",
        "(first_row + lane // HEADS).to(tl.int64)",
        "(first_row + lane // HEADS)",
        {"batch": {"decode": ()}, "memory": {"far": "q_fp8"}},
    ),
    "far gathered keys": ("gather", "token.to(tl.int64) *", "token *", {"memory": {"far": "k_fp8"}}),
    "far logits": ("mqa_logits", "row.to(tl.int64) *", "row *", {"memory": {"far": "logits"}}),
    "far tables": (
        "paged_mqa_logits",
        "tl.program_id(0).to(tl.int64)",
        "tl.program_id(0)",
        {"memory": {"far": "table"}},
    ),
}


def with_edit(label: str, file: str, old: str, new: str):
    edit = (label, f"kernels/{file}.py", old, new)
    return builtin(edited_kernels(label.replace(" ", "_").replace(",", ""), [edit]))


@pytest.mark.parametrize("label", MISTAKES)
def test_an_input_shows_its_mistake_and_right_kernels_take_it(label):
    file, old, new, fields = MISTAKES[label]
    wrong, case = with_edit(label, file, old, new), CASE.replace(**fields)
    assert run(case, builtin(), DEVICE).findings == []
    assert run(CASE, wrong, DEVICE).findings == []
    stages = {finding.stage for finding in run(case, wrong, DEVICE).findings}
    assert stages == {
        {
            "rope": "rope",
            "gather": "gather",
            "cache": "k_quant_cache",
            "mqa_logits": "prefill_logits",
            "paged_mqa_logits": "paged_logits",
            "fused": "fused_q",
        }[file]
    }


LONG = CASE.replace(cache={"block_size": 64}, batch={"decode": (), "prefill": ({"length": 40, "new": 33},)})
OWN = {
    "select-columns-taken-for-dense": (CASE, {"memory": {"columns_pad": 16}}),
    "select-columns-in-32-bits": (CASE, {"memory": {"far": "columns"}}),
    "slots-of-a-run-by-its-ends": (LONG, {"batch": {"slot_holes": 1}}),
    "windows-of-a-tile-grow-by-one": (LONG, {"batch": {"row_step": 2}}),
    "gather-all-that-there-is": (LONG, {"batch": {"gather_pad": 0, "gather_cut": 5}}),
    "weights-taken-for-adjacent": (CASE, {"memory": {"weights_head_pad": 1}}),
    "folded-weights-taken-for-adjacent": (CASE, {"memory": {"q_weights_head_pad": 1}}),
    "angles-of-context-length": (CASE, {"batch": {"positions": "gapped"}}),
}
"""Planted fault -> a case that does not show it, and the one field that does."""


def everything(case, implementation):
    """What stages show; what the indexer as a whole shows where they show nothing."""
    return run(case, implementation, DEVICE).findings or composition.run(case, implementation, DEVICE).findings


@pytest.mark.parametrize("fault", OWN)
def test_one_field_shows_a_planted_fault_and_right_kernels_take_it(fault):
    plain, fields = OWN[fault]
    wrong, case = plant((fault,)), plain.replace(**fields)
    assert everything(case, builtin()) == []
    assert everything(plain, wrong) == []
    found = everything(case, wrong)
    assert found
    assert all(load_faults()[fault].is_blamed_by(finding) for finding in found)


def test_right_kernels_take_any_weights_whose_heads_lie_apart():
    drawn = (case for case in stream_cases(3, DEVICE.formats) if has_weights_apart(case.memory))
    for case in islice(drawn, 200):
        assert run(case, builtin(), DEVICE, TAKE_WEIGHTS).findings == [], case.canonical_json()


def has_weights_apart(memory):
    return memory.weights_head_pad > 0 or memory.q_weights_head_pad > 0


def test_right_kernels_take_any_weights_of_fp32():
    drawn = (case.replace(values={"weights": "full"}) for case in stream_cases(1, DEVICE.formats))
    for case in islice(drawn, 200):
        assert run(case, builtin(), DEVICE, TAKE_WEIGHTS).findings == [], case.canonical_json()


@pytest.mark.parametrize("fault", ["weights-in-three-parts", "weights-of-large-rows-scaled"])
def test_weights_of_all_of_fp32_show_what_wide_ones_do_not(fault):
    wrong, stage = plant((fault,)), frozenset({load_faults()[fault].stage})
    drawn = (case for case in stream_cases(1, DEVICE.formats) if case.values.weights == "full")
    shown = [(case, run(case, wrong, DEVICE, stage).findings) for case in islice(drawn, 9)]
    assert any(found for _, found in shown)
    for case, _ in shown:
        assert run(case.replace(values={"weights": "wide"}), wrong, DEVICE, stage).findings == []


def test_rope_in_place_must_change_its_arguments_where_that_is_promised():
    right = builtin()

    def on_copies(q, k, **options):
        return right.stages["rope"](q.clone(), k.clone(), **options)

    wrong = replace(right, stages={**right.stages, "rope": on_copies})
    case = CASE.replace(rope={"mode": "inplace"})
    assert {str(finding.signature) for finding in run(case, wrong, DEVICE).findings} == {
        "rope/not-in-place/q",
        "rope/not-in-place/k",
    }
    assert run(case, right, DEVICE).findings == []
    careless = replace(wrong, promises=replace(wrong.promises, rope_in_place=False))
    assert run(case, careless, DEVICE).findings == []


def test_all_of_them_at_once():
    case = CASE.replace(
        batch={"pad_seq": "first", "gather_holes": 2, "long_windows": True},
        memory={
            "missing_pages": 2,
            "k_fp8_pad": 1,
            "q_fp8_pad": 1,
            "q_weights_pad": 1,
            "logits_pad": 1,
            "angles_pad": 1,
            "far": "logits",
        },
        values={"q": "large", "k": "large"},
        rope={"mode": "inplace"},
    )
    assert run(case, builtin(), DEVICE).findings == []
