"""Step and arena: pinned bytes, guards that see every stray write, and the shape of a step."""

import hashlib

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.reference import layout
from indexfuzz.reference.scales import unpack
from indexfuzz.samples.allocation import GUARD, allocate, allocate_pages
from indexfuzz.samples.cached import OTHERS
from indexfuzz.samples.materialise import materialise
from indexfuzz.samples.poison import poison_like
from indexfuzz.samples.regimes import TENSORS
from indexfuzz.samples.requests import token_places

MIXED = Case().replace(
    model={"num_heads": 2, "head_dim": 32, "rope_dim": 16, "quant_group": 32},
    cache={"block_size": 16, "pages": "permuted", "spare_blocks": 3, "shared_prefix": True},
    batch={
        "decode": (40, 3, 17),
        "prefill": ({"length": 40, "new": 7}, {"length": 9, "new": 9}),
        "next_n": 2,
        "max_model_len": 300,
        "pad_tokens": 2,
        "gather_pad": 2,
    },
)

GOLDEN = {
    "normal": "0e68b61d13b8932c",
    "exact": "881667ef10fb8c60",
    "ties": "f4b530f487060aee",
    "saturation": "61f47395c851a649",
    "subnormal": "db8576402185e8d8",
    "clamp": "200960fccbb4515e",
    "outlier": "528fe789b10eef0b",
    "large": "d2fc48749769653e",
    "tied": "412f4f5c4fa769b2",
    "zeros": "4b72c460dd58e7bf",
    "wide": "d88f28d3872300d3",
    "cancelling": "044ebcc8f0d6e411",
    "faint": "c6cef806578d75dd",
    "nonfinite": "ce24d460e104ff02",
}


GOLDEN_WEIGHTS = {
    "full": "a1ebd107580ab73e",
    "ties": "9001259bd64098f8",
    "saturation": "fd720aaa57a349b4",
    "subnormal": "2817b4600663d29b",
    "clamp": "be37eb75fdc42d38",
    "outlier": "e839b8cb250d05e2",
    "large": "ad6fca633a637a59",
}

YOUNGER = {("rope", "ties"), *(("weights", regime) for regime in GOLDEN_WEIGHTS)}
"""Tensors that a regime was first drawn for after its bytes were pinned."""


@pytest.mark.parametrize("regime", GOLDEN)
def test_the_bytes_of_every_regime_are_pinned(regime):
    names = [n for n, known in TENSORS.items() if regime in known or (regime == "nonfinite" and n != "rope")]
    names = [n for n in names if (n, regime) not in YOUNGER]
    step = materialise(MIXED.replace(values=dict.fromkeys(names, regime)))
    digest = hashlib.sha256()
    for _, tensor in sorted(step.tensors.items()):
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    assert digest.hexdigest()[:16] == GOLDEN[regime]


@pytest.mark.parametrize("regime", GOLDEN_WEIGHTS)
def test_the_bytes_of_weights_are_pinned(regime):
    weights = materialise(MIXED.replace(values={"weights": regime})).tensors["weights"]
    digest = hashlib.sha256(weights.contiguous().view(torch.uint8).numpy().tobytes())
    assert digest.hexdigest()[:16] == GOLDEN_WEIGHTS[regime]


def test_tokens_of_a_step():
    step = materialise(MIXED)
    assert step.tensors["q"].shape == (24, 2, 32)
    assert step.tensors["positions"].tolist()[:6] == [38, 39, 1, 2, 15, 16]
    assert step.tensors["ks"].tolist() == [0] * 7 + [40] * 9
    assert step.tensors["ke"].tolist() == [*range(34, 41), *range(41, 50)]
    assert step.tensors["slot_mapping"].tolist()[-2:] == [-1, -1]
    assert step.tensors["token_to_seq"].tolist()[-3:] == [1, -1, -1]


def test_context_below_next_n_is_padding():
    step = materialise(MIXED.replace(batch={"decode": (1,), "next_n": 3}))
    assert (step.tensors["slot_mapping"][:3] >= 0).tolist() == [False, False, True]


def test_short_slot_mapping_leaves_out_the_padding():
    assert len(materialise(MIXED.replace(batch={"short_slots": True})).tensors["slot_mapping"]) == 22


def test_shared_prefix_aliases_whole_context_pages():
    tables = materialise(MIXED).tensors
    assert tables["prefill_table"][0, :2].tolist() == tables["decode_table"][0, :2].tolist()
    assert tables["prefill_table"][0, 2] != tables["decode_table"][0, 2]


def test_context_is_in_the_cache_and_the_rest_is_poison():
    step = materialise(MIXED.replace(cache={"shared_prefix": False}))
    cache, table = step.tensors["cache"], step.tensors["decode_table"]
    slots = table[0].long().repeat_interleave(16) * 16 + torch.arange(48) % 16
    codes, scales = layout.read_tokens(cache, slots, "shuffle")
    assert torch.isfinite(scales[:38]).all()
    assert (codes[:38] & 0x7F != 0x7F).all()
    assert torch.isnan(scales[38:]).all()
    assert (codes[38:] == 0x7F).all()


def test_overrides_reach_their_tensor():
    step = materialise(MIXED.replace(values={"k": "zeros", "set": {"k": ((1, 2, "0x1.8p+1"), (999, 0, "0x1p0"))}}))
    assert step.tensors["k"].nonzero().tolist() == [[1, 2]]
    assert step.tensors["k"][1, 2] == 3.0


@pytest.mark.parametrize("stride_pad", [0, 4, 1 << 25])
@pytest.mark.parametrize("where", [-1, "end", "page_end"])
def test_guards_of_a_cache_see_every_stray_write(stride_pad, where):
    buffer = allocate_pages("cache", (3, 2, 36), "cpu", page_pad=stride_pad)
    buffer.seal()
    buffer.view.fill_(1)
    assert buffer.first_change(payload_may_change=True) is None
    assert buffer.first_change(payload_may_change=False) == 0
    offset = {"end": 2 * (72 + stride_pad) + 72, "page_end": 72, -1: -1}[where]
    if where == "page_end" and not stride_pad:
        return
    assert not buffer.differs(payload_may_change=True)
    assert buffer.differs(payload_may_change=False)
    buffer.storage[GUARD + offset] = 0x55
    assert buffer.first_change(payload_may_change=True) == offset
    assert buffer.differs(payload_may_change=True)


@pytest.mark.parametrize("offset", [-2, 6, 16, 22])
def test_guards_see_writes_between_rows_and_around(offset):
    buffer = allocate("k", (2, 3), torch.bfloat16, "cpu", row_pad=5)
    buffer.view.fill_(1.0)
    buffer.seal()
    buffer.view.fill_(2.0)
    assert buffer.first_change(payload_may_change=True) is None
    buffer.storage[GUARD + offset] ^= 0x55
    change = buffer.first_change(payload_may_change=True)
    assert change == (None if offset == 16 else offset)
    assert bool(buffer.differs(payload_may_change=True)) is (offset != 16)
    buffer.restore()
    assert buffer.first_change(payload_may_change=False) is None
    assert buffer.view.tolist() == [[1.0] * 3] * 2


def test_a_stride_of_gigabytes_takes_no_memory():
    step = materialise(MIXED.replace(cache={"page_pad": 1 << 30, "spare_blocks": 0}))
    assert step.tensors["cache"].stride(0) > 1 << 30
    assert step.buffers["cache"].snapshot.numel() < 1 << 16


def test_gathered_padding_says_what_the_case_asks_for():
    for pad_seq, claimed in (("batch", 2), ("huge", 1 << 30), ("first", 0), ("last", 1)):
        owners = materialise(MIXED.replace(batch={"pad_seq": pad_seq})).tensors["token_to_seq"]
        assert owners.tolist() == [0] * 40 + [1] * 9 + [claimed] * 2
    holes = materialise(MIXED.replace(batch={"gather_holes": 4})).tensors["token_to_seq"][:49]
    assert {-1, 2, 1 << 30} == set(holes.tolist()) - {0, 1}
    assert 10 < int((holes == torch.tensor([0] * 40 + [1] * 9)).sum()) < 40


def test_a_short_workspace_loses_the_last_keys_padding_first():
    owners = [0] * 40 + [1] * 9 + [-1] * 2
    for cut, left in ((1, 50), (5, 46), (100, 0)):
        case = MIXED.replace(batch={"gather_cut": cut})
        step = materialise(case)
        assert step.tensors["token_to_seq"].tolist() == owners[:left]
        assert step.tensors["cu_seqlens"].tolist() == [0, 40, 49]
        assert case.batch.keys == left


def test_tokens_without_a_slot_are_in_the_cache_already():
    holes, whole = materialise(MIXED.replace(batch={"slot_holes": 3})), materialise(MIXED)
    slots, every = holes.tensors["slot_mapping"], whole.tensors["slot_mapping"]
    missing = every[(slots < 0) & (every >= 0)]
    assert 0 < len(missing) < int((every >= 0).sum())
    assert torch.equal(slots[slots >= 0], every[slots >= 0])
    marks = torch.zeros_like(whole.defined)
    layout.mark_tokens(marks, missing, MIXED.cache.page_layout)
    assert bool((holes.defined[marks.bool()] > 0).all())
    assert bool((whole.defined[marks.bool()] == 0).all())


def test_positions_may_count_something_else_than_tokens():
    ranks = materialise(MIXED).tensors["positions"]
    owned = token_places(MIXED)[1] >= 0
    kinds = {kind: materialise(MIXED.replace(batch={"positions": kind})) for kind in ("shifted", "repeated", "gapped")}
    assert torch.equal(kinds["repeated"].tensors["positions"], ranks // 2)
    assert torch.equal(kinds["gapped"].tensors["positions"], ranks * 3)
    shift = kinds["shifted"].tensors["positions"] - ranks
    assert bool((shift[owned] > 0).all())
    assert bool((shift[~owned] == 0).all())
    for step in kinds.values():
        positions, table = step.tensors["positions"], step.tensors["cos_sin_cache"]
        assert int(positions.max()) + 1 == len(table)
        assert torch.equal(step.tensors["slot_mapping"], materialise(MIXED).tensors["slot_mapping"])


def test_rows_of_a_request_that_is_shared_out_see_several_keys_more_each():
    whole, shared = (materialise(MIXED.replace(batch={"row_step": n})).tensors for n in (1, 3))
    assert torch.equal(whole["ks"], shared["ks"])
    for start in whole["ks"].unique():
        rows = whole["ks"] == start
        seen = (shared["ke"][rows] - start).tolist()
        last = int(whole["ke"][rows][-1] - start)
        assert seen == [max(last - 3 * i, 1) for i in range(len(seen))][::-1]


def test_windows_may_end_beyond_the_last_key():
    step = materialise(MIXED.replace(batch={"long_windows": True}))
    beyond = step.tensors["ke"][step.tensors["ke"] > MIXED.batch.keys]
    assert set(beyond.tolist()) == {52, 51 + 64, 1 << 30}


@pytest.mark.parametrize(("tail", "missing"), [("minus-one", -1), ("num-blocks", MIXED.num_blocks), ("huge", 1 << 30)])
def test_pages_are_missing_from_tables_but_not_from_slots(tail, missing):
    case = MIXED.replace(memory={"missing_pages": 4, "table_tail": tail})
    step, whole = materialise(case), materialise(MIXED)
    changed = step.tensors["prefill_table"] != whole.tensors["prefill_table"]
    assert set(step.tensors["prefill_table"][changed].tolist()) == {missing}
    assert torch.equal(step.tensors["slot_mapping"], whole.tensors["slot_mapping"])


@pytest.mark.parametrize("name", ["q", "k", "weights", "table"])
def test_far_rows_hold_the_same_and_take_no_memory(name):
    step, near = materialise(MIXED.replace(memory={"far": name})), materialise(MIXED)
    tensor = "decode_table" if name == "table" else name
    view, buffer = step.tensors[tensor], step.buffers[tensor]
    assert (len(view) - 1) * view.stride(0) >= 1 << 31 > view.stride(0)
    assert torch.equal(view, near.tensors[tensor])
    assert buffer.snapshot.numel() < 1 << 16
    view[-1, ..., -1] += 1
    assert buffer.first_change(payload_may_change=True) is None
    assert buffer.element(buffer.first_change(payload_may_change=False))[0] == len(view) - 1
    buffer.restore()
    buffer.rows[-1, -1] ^= 0x55
    assert buffer.first_change(payload_may_change=True) > 0


def test_quantised_q_is_spread_as_the_case_asks():
    step = materialise(MIXED.replace(memory={"q_fp8_pad": 8, "far": "q_weights"}))
    q, weights = torch.ones((24, 2, 32)).to(torch.float8_e4m3fn), torch.arange(48.0).view(24, 2)
    step.tensors |= {"q_fp8": q, "q_weights": weights}
    spread = step.spread("q_fp8"), step.spread("q_weights")
    assert spread[0].stride() == (72, 32, 1)
    assert 23 * spread[1].stride(0) >= 1 << 31
    assert torch.equal(spread[0].float(), q.float())
    assert torch.equal(spread[1], weights)
    assert step.spread("q_fp8") is spread[0]
    dense = materialise(MIXED)
    dense.tensors["q_fp8"] = q
    assert dense.spread("q_fp8") is q


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_no_poison_is_a_right_answer(dtype):
    """-1 is what a selection holds where there is nothing to select, and what a table holds where there is no page."""
    poison = poison_like(torch.zeros((2, 3), dtype=dtype))
    assert (poison.shape, poison.dtype) == ((2, 3), dtype)
    if dtype.is_floating_point:
        assert bool(poison.float().isnan().all())
    else:
        assert bool((poison > 1 << 30).all())


@pytest.mark.parametrize("far", ["none", "weights"])
def test_weights_of_heads_lie_apart_as_the_case_asks(far):
    case = MIXED.replace(memory={"weights_head_pad": 2, "weights_pad": 5, "far": far})
    step, plain = materialise(case), materialise(MIXED).tensors["weights"]
    weights = step.tensors["weights"]
    stride = 2 * 3 + case.row_pad("weights", len(plain), 2 * 3)
    assert weights.stride() == (stride, 3)
    assert (stride > 1 << 20) == (far == "weights")
    assert torch.equal(weights, plain)
    buffer = step.buffers["weights"]
    weights += 1
    assert buffer.first_change(payload_may_change=True) is None
    gap = torch.as_strided(weights, (1,), (1,), weights.storage_offset() + stride + 1)
    gap.fill_(1.0)
    assert buffer.first_change(payload_may_change=True) == 4 * (stride + 1)


@pytest.mark.parametrize("far", ["none", "q_weights"])
def test_folded_weights_lie_apart_as_the_case_asks(far):
    case = MIXED.replace(memory={"q_weights_head_pad": 2, "q_weights_pad": 1, "far": far})
    step = materialise(case)
    folded = torch.arange(2.0 * case.batch.tokens).view(-1, 2)
    step.tensors["q_weights"] = folded
    got = step.spread("q_weights")
    assert got.stride() == (2 * 3 + case.row_pad("q_weights", case.batch.tokens, 2 * 3), 3)
    assert torch.equal(got, folded)


def test_heads_and_lengths_lie_apart_as_the_case_asks():
    case = MIXED.replace(batch={"lens": "2d"}, memory={"q_head_pad": 8, "q_pad": 3, "lens_step": 3, "lens_pad": 2})
    step, plain = materialise(case), materialise(MIXED.replace(batch={"lens": "2d"}))
    assert step.tensors["q"].stride() == (2 * 40 + 3, 40, 1)
    assert step.tensors["context_lens"].stride() == (2 * 3 + 2, 3)
    for name in ("q", "context_lens"):
        assert torch.equal(step.tensors[name], plain.tensors[name])
    flat = materialise(case.replace(batch={"lens": "1d"})).tensors["context_lens"]
    assert (flat.tolist(), flat.stride()) == ([40, 3, 17], (3,))


@pytest.mark.parametrize("shifted", ["all", "k", "cache", "context_lens", "positions"])
def test_tensors_start_as_far_from_an_aligned_address_as_the_case_asks(shifted):
    step, plain = materialise(MIXED.replace(memory={"shift": 3, "shifted": shifted, "far": "k"})), materialise(MIXED)
    for name, tensor in step.tensors.items():
        off = (3 * (4 if name == "cache" else tensor.element_size())) if shifted in ("all", name) else 0
        assert tensor.data_ptr() % 16 == (plain.tensors[name].data_ptr() + off) % 16
        assert torch.equal(tensor.view(torch.uint8), plain.tensors[name].view(torch.uint8))
        buffer = step.buffers[name]
        buffer.storage[tensor.storage_offset() * tensor.element_size() - 1] ^= 0x55
        assert buffer.first_change(payload_may_change=True) == -1
        assert buffer.differs(payload_may_change=True)


def test_q_and_k_are_columns_of_one_tensor():
    memory = {"fused": True, "q_pad": 2, "k_pad": 4, "q_head_pad": 1, "shift": 1}
    step, plain = materialise(MIXED.replace(memory=memory)), materialise(MIXED)
    q, k = step.tensors["q"], step.tensors["k"]
    assert q.untyped_storage().data_ptr() == k.untyped_storage().data_ptr()
    assert q.stride(0) == k.stride(0) == 2 * 33 + 2 + 32 + 4
    assert (q.stride(1), k.data_ptr() - q.data_ptr()) == (33, 2 * (2 * 33 + 2))
    assert torch.equal(q, plain.tensors["q"])
    assert torch.equal(k, plain.tensors["k"])
    assert "q+k" not in step.tensors


def test_guards_of_a_fused_tensor_know_whose_bytes_were_changed():
    step = materialise(MIXED.replace(memory={"fused": True, "k_pad": 4}))
    q, k = step.tensors["q"], step.tensors["k"]
    watched = {name: step.buffers[name] for name in ("q", "k", "q+k")}

    def changed():
        return {n: c for n, b in watched.items() if (c := b.first_change(payload_may_change=n == "q")) is not None}

    q += 1
    assert changed() == {}
    k[3, 5] += 1
    assert changed() == {"k": 2 * (3 * k.stride(0) + 5)}
    assert watched["k"].element(changed()["k"]) == (3, 5)
    watched["k"].restore()
    storage, start = watched["q"].storage, q.storage_offset() * 2
    for offset, blamed in ((2 * (q.stride(0) - 1), "k"), (-1, "q+k"), (2 * q.stride(0) * len(q), "q+k")):
        storage[start + offset] ^= 0x55
        assert list(changed()) == [blamed]
        watched[blamed].restore()


def test_a_large_pool_of_dense_pages_is_watched_as_a_whole():
    buffer = allocate_pages("cache", (300, 2048, 36), "cpu", page_pad=4)
    buffer.seal()
    buffer.view.fill_(1)
    assert buffer.first_change(payload_may_change=True) is None


def test_full_weights_are_all_that_fp32_has():
    case = MIXED.replace(model={"num_heads": 7}, batch={"pad_tokens": 400}, values={"weights": "full"})
    weights = materialise(case).tensors["weights"]
    largest = torch.finfo(torch.float32).max
    assert torch.isfinite(weights).all()
    assert weights.abs().max() == largest
    assert weights[weights != 0].abs().min() == 2.0**-149
    assert (weights.signbit() & (weights == 0)).any()
    ratio = weights.double().abs().amax(1) / weights.double().abs().amin(1).clamp_min(2.0**-149)
    assert (ratio > 2.0**100).any()
    in_order = weights.abs().sort(1).values
    assert ((in_order[:, 0] > 2.0**-104) & (in_order[:, -2] < 2.0**-70) & (in_order[:, -1] > 2.0**99)).any()
    rest = weights.double().sum(1).abs()
    assert ((rest < 2.0**-100 * weights.abs().amax(1)) & (weights.abs().amax(1) > 2.0**99) & (rest > 0)).any()
    rounded = materialise(case.replace(memory={"head_weights": "bf16"})).tensors["weights"]
    assert rounded.abs().max() == torch.finfo(torch.bfloat16).max


def test_wide_values_reach_from_the_smallest_to_the_largest():
    step = materialise(MIXED.replace(batch={"pad_tokens": 400}, values={"q": "wide", "weights": "wide"}))
    q, weights = step.tensors["q"].float(), step.tensors["weights"]
    for values in (q, weights):
        assert torch.isfinite(values).all()
        assert values.abs().max() > 2.0**120
        assert (values[values != 0].abs().min()) < 2.0**-126
        assert (values.signbit() & (values == 0)).any()
    assert q.abs().max() == torch.finfo(torch.bfloat16).max
    assert q[q != 0].abs().min() == 2.0**-133


def test_cancelling_values_leave_little_of_large_products():
    step = materialise(MIXED.replace(batch={"pad_tokens": 60}, values={"q": "cancelling", "k": "cancelling"}))
    q, k = step.tensors["q"].double().flatten(0, 1), step.tensors["k"].double()
    size, dots = q.abs() @ k.abs().T, (q @ k.T).abs()
    assert 0.2 < float((dots < size / 16).double().mean()) < 0.8


def test_small_turns_end_midway_between_two_numbers():
    step = materialise(MIXED.replace(values={"rope": "ties"}))
    cos, sin = step.tensors["cos_sin_cache"].double().chunk(2, 1)
    assert set(cos.flatten().tolist()) == {1.0, -1.0}
    assert set(sin.flatten().tolist()) == {2.0**-8, -(2.0**-9)}


@pytest.mark.parametrize("groups", [1, 4])
def test_cached_keys_have_exponents_of_all_their_groups(groups):
    case = Case().replace(
        model={"head_dim": 64, "quant_group": 64 // groups},
        cache={"block_size": 16, "scales": "ue8m0"},
        batch={"decode": (130,), "max_model_len": 130},
        values={"cache": "wide"},
    )
    step = materialise(case)
    slots = (step.tensors["decode_table"][0, :, None].long() * 16 + torch.arange(16)).flatten()[:129]
    words = layout.read_tokens(step.tensors["cache"], slots, "shuffle")[1].view(torch.int32)
    scales = unpack(words)
    assert bool(torch.isfinite(scales).all())
    assert int((scales == scales[:, :1]).all(1).sum() < 60) == (groups == 4)
    assert 5 <= int((scales == 2.0**-127).all(1).sum()) <= 35
    assert len(scales.unique()) > 40


def test_pages_of_another_cache_hold_numbers_and_leftover_entries_name_them():
    others = {"others": True, "spare_blocks": 3}
    case = MIXED.replace(cache=others, memory={"table_tail": "spare", "table_extra": 2})
    poisoned, shared = materialise(MIXED.replace(cache={"spare_blocks": 3})), materialise(case)
    written = poisoned.defined.bool()
    assert torch.equal(poisoned.tensors["cache"][written], shared.tensors["cache"][written])
    assert bool((shared.tensors["cache"][~written] < OTHERS).all())
    assert bool(shared.defined.all())
    decode, prefill = (shared.tensors[name] for name in ("decode_table", "prefill_table"))
    (tail,) = set(decode[:, -2:].flatten().tolist()) | set(prefill[:, -2:].flatten().tolist())
    owned = {page for table in (decode, prefill) for page in table[:, :-2].flatten().tolist()} - {tail}
    assert 0 <= tail < case.num_blocks
    assert tail not in owned


def test_where_no_page_is_left_over_the_unused_columns_name_none():
    full = MIXED.replace(cache={"spare_blocks": 0, "shared_prefix": False}, memory={"table_tail": "spare"})
    assert set(materialise(full.replace(memory={"table_extra": 1})).tensors["decode_table"][:, -1].tolist()) == {-1}
    missing = materialise(MIXED.replace(memory={"table_tail": "spare", "missing_pages": 8})).tensors
    assert set(missing["prefill_table"].flatten().tolist()) == {-1}


def test_a_session_has_its_storage_to_itself():
    session = {"node": "pool", "ratio": 2, "steps": ({"turns": ({"request": 0, "new": 3},)},)}
    case = Case().replace(session=session, batch={"max_model_len": 8})
    with pytest.raises(ValueError, match=r"cache\.others must be false"):
        case.replace(cache={"others": True})
