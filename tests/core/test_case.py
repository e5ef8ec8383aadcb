"""Case: identity, strict validation, clear errors."""

import json

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.part import CaseError
from indexfuzz.reference.layout import resolve


def test_ids_are_pinned():
    assert Case().id == "cc43b58c1f7f58b8"
    other = Case().replace(cache={"block_size": 16}, batch={"decode": (3,), "max_model_len": 40})
    assert other.id == "d64921e096754f23"


def test_a_changed_case_has_the_parts_of_the_other_but_those_that_change():
    case = Case().replace(memory={"q_pad": 3}, values={"seed": 5})
    changed = case.replace(memory={"k_pad": 7})
    assert (changed.memory.q_pad, changed.memory.k_pad, changed.values) == (3, 7, case.values)
    assert all(getattr(changed, name) is getattr(case, name) for name in Case.model_fields if name != "memory")
    assert changed == Case.parse(json.loads(changed.canonical_json()))
    assert changed.id != case.id
    with pytest.raises(CaseError, match="other"):
        case.replace(other={"q_pad": 3})


def test_two_values_to_a_byte_take_half_the_room():
    case = Case().replace(cache={"scales": "mxfp4", "block_size": 16}, model={"quant_group": 8})
    assert (case.key_bytes, case.token_bytes, case.has_scales, case.has_layout("shuffle")) == (16, 20, True, True)
    assert not case.replace(model={"head_dim": 16, "rope_dim": 16, "quant_group": 4}).has_layout("shuffle")
    assert not case.replace(model={"quant_group": 32}).has_scales
    assert not case.replace(model={"scale_fmt": "fp32"}).has_scales


def test_canonical_json_round_trips():
    case = Case().replace(values={"set": {"k": ((0, 3, "0x1.cp+8"),)}}, batch={"prefill": ({"length": 3, "new": 1},)})
    assert Case.parse(json.loads(case.canonical_json())) == case
    assert " " not in case.canonical_json()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"colour": 1}, "colour: Extra inputs"),
        ({"cache": {"block_size": "3"}}, "cache.block_size: Input should be a valid integer"),
        ({"cache": {"block_size": 0}}, "cache.block_size: Input should be greater than or equal to 1"),
        ({"cache": {"scales": "mxfp4"}, "model": {"head_dim": 100}}, "must be a multiple of 8, not 100"),
        ({"cache": {"page_pad": 3}}, "cache.page_pad: page_pad 3 must be a multiple of 4"),
        ({"model": {"rope_dim": 64}}, "model: rope_dim 64 must be even and at most head_dim 32"),
        ({"batch": {"decode": [3]}}, "case: batch.decode has length 3 beyond max_model_len 1"),
        ({"batch": {"prefill": [{"length": 1, "new": 2}]}}, "batch.prefill.0: new 2 exceeds length 1"),
        ({"cache": {"scales": "ue8m0"}, "model": {"head_dim": 127}}, "cache.scales ue8m0 are 4 exponents"),
        ({"values": {"set": {"z": []}}}, "values.set: 'z' is no tensor"),
        ({"values": {"set": {"k": [[0, "0x1p0"]]}}}, "must be 2 indices and a hex float"),
        ({"values": {"set": {"k": [[0, 1, "one"]]}}}, "values.set: invalid hexadecimal"),
        ({"batch": {"pad_tokens": 4096}, "model": {"num_heads": 256, "head_dim": 512, "rope_dim": 16}}, "q would take"),
        ({"cache": {"spare_blocks": 4096, "page_pad": 1 << 32}}, "lower cache.page_pad"),
        ({"cache": {"spare_blocks": 65, "page_pad": 1 << 21}}, "65 pages lie 2097152 bytes apart"),
        (["not", "a", "case"], "Input should be an object"),
    ],
)
def test_wrong_cases_get_one_sentence(data, message):
    with pytest.raises(CaseError) as error:
        Case.parse(data)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_replace_validates():
    with pytest.raises(CaseError, match="max_model_len"):
        Case().replace(batch={"decode": (2,)})


YOUNGER = {
    "model": {"k_norm": "rms"},
    "cache": {"scales": "ue8m0", "others": True},
    "batch": {
        "pad_seq": "batch",
        "gather_holes": 1,
        "long_windows": True,
        "select_holes": 1,
        "slot_holes": 1,
        "positions": "gapped",
        "row_step": 2,
        "gather_cut": 1,
    },
    "memory": {
        "k_fp8_pad": 1,
        "q_fp8_pad": 1,
        "q_weights_pad": 1,
        "logits_pad": 1,
        "angles_pad": 1,
        "missing_pages": 1,
        "far": "q",
        "q_head_pad": 1,
        "q_fp8_head_pad": 1,
        "lens_pad": 1,
        "lens_step": 2,
        "shift": 1,
        "shifted": "q",
        "fused": True,
        "columns_pad": 1,
        "indices": "int64",
        "positions": "int32",
        "head_weights": "bf16",
        "norm_weights": "bf16",
        "activations": "fp32",
        "weights_head_pad": 1,
        "q_weights_head_pad": 1,
    },
}


def test_younger_fields_are_written_only_where_they_say_something():
    plain = json.loads(Case().canonical_json())
    for part, fields in YOUNGER.items():
        assert getattr(Case(), part).added == set(fields)
        for name, value in fields.items():
            assert name not in plain[part]
            case = Case().replace(**{part: {name: value}})
            assert json.loads(case.canonical_json())[part][name] == value
            assert case.id != Case().id
            assert Case.parse(json.loads(case.canonical_json())) == case
            assert case.replace(**{part: {name: getattr(getattr(Case(), part), name)}}) == Case()


def test_rows_are_far_apart_only_where_that_needs_more_than_32_bits():
    case = Case().replace(memory={"far": "k", "q_pad": 5})
    assert case.row_pad("q", 9, 32) == 5
    assert [case.row_pad("k", rows, 32) for rows in (1, 2, 65)] == [0, 0, 0]
    for rows in (3, 64):
        stride = 32 + case.row_pad("k", rows, 32)
        assert stride < 1 << 31 <= (rows - 1) * stride


def test_a_case_knows_the_layout_of_its_pages_as_the_reference_does():
    for layout in ("auto", "normal", "shuffle"):
        for block_size in (1, 16, 24):
            cache = Case().replace(cache={"layout": layout, "block_size": block_size}).cache
            assert cache.page_layout == resolve(layout, block_size)
