"""SGLang's fused store of V4's index keys: a stand-in of our own, and the real kernel."""

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees, Promises
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations import load
from indexfuzz.implementations.loading.source import SourceError
from indexfuzz.oracles.differential import run
from indexfuzz.reference.arithmetic import PRESETS

STORE = "sglang/kernels/ops/kvcache/triton_store_cache.py"
TEXT = """\
    import torch
    from sglang.kernels.ops.quantization.fp8_kernel import is_fp8_fnuz
    from sglang.srt.layers.attention.dsa.utils import (
        INDEXER_K_CACHE_PRESHUFFLE_TILE as TILE,
        aiter_can_use_preshuffle_paged_mqa,
    )

    FP8 = torch.float8_e4m3fnuz if is_fp8_fnuz() else torch.float8_e4m3fn
    FLOOR = 1e-8

    def triton_fused_store_indexer(input, cache, indices, page_size):
        for x, slot in zip(input.float(), indices.tolist(), strict=True):
            page, at = divmod(slot, page_size)
            scale = x.abs().max().clamp_min(FLOOR) / torch.finfo(FP8).max
            codes = (x * (1 / scale)).to(FP8).view(torch.uint8)
            values = cache[page, : page_size * 128]
            if aiter_can_use_preshuffle_paged_mqa():
                values.view(-1, 8, TILE, 16)[at // TILE, :, at % TILE] = codes.view(8, 16)
            else:
                values.view(-1, 128)[at] = codes
            cache[page, page_size * 128 :].view(torch.float32)[at] = scale
"""
CASE = Case().replace(
    model={"head_dim": 128, "quant_group": 128, "scale_fmt": "fp32"},
    cache={"block_size": 16, "layout": "shuffle", "pages": "permuted"},
    batch={"decode": (20, 5), "prefill": ({"length": 40, "new": 30},), "max_model_len": 32},
    values={"seed": 4},
)
CASES = (
    CASE,
    CASE.replace(cache={"block_size": 64, "layout": "normal"}, values={"k": "clamp"}),
    CASE.replace(values={"k": "subnormal"}),
    CASE.replace(values={"k": "saturation"}, batch={"pad_tokens": 2, "slot_holes": 3}),
)


def found_in(implementation):
    return [finding for case in CASES for finding in run(case, implementation, LockstepDevice()).findings]


def test_a_right_stand_in_passes(tree):
    implementation = load(f"sglang-v4-store:{tree.wheel('sglang', '0.5.23', {STORE: TEXT})}")
    assert implementation.name == "sglang 0.5.23 dsv4 store"
    assert any("DeepSeek-V4 on AMD" in note for note in implementation.notes)
    for case in CASES:
        outcome = run(case, implementation, LockstepDevice())
        assert (outcome.stages, outcome.findings) == (["k_quant_cache"], [])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FLOOR = 1e-8", "FLOOR = 1e-4"),
        ("at // TILE, :, at % TILE", "at // TILE, :, (at + 1) % TILE"),
        (".view(torch.float32)[at] = scale", ".view(torch.float32)[at // 2] = scale"),
        ("1 / scale", "1 / scale.bfloat16()"),
    ],
)
def test_a_mistake_in_a_copy_is_found(tree, old, new):
    assert TEXT.count(old) == 1
    assert found_in(load(f"sglang-v4-store:{tree.folder({STORE: TEXT.replace(old, new)})}"))


def test_a_quotient_of_its_own_is_no_product_with_a_reciprocal(tree):
    implementation = load(f"sglang-v4-store:{tree.folder({STORE: TEXT.replace('x * (1 / scale)', 'x / scale')})}")
    many = [
        CASE.replace(values={"seed": seed}, batch={"prefill": ({"length": 400, "new": 400},)}) for seed in (1, 2, 3)
    ]
    assert any(run(case, implementation, LockstepDevice()).findings for case in many)


def test_what_it_leaves_alone(tree):
    implementation = load(f"sglang-v4-store:{tree.folder({STORE: TEXT})}")
    outside = {
        "k is dense": CASE.replace(memory={"k_pad": 8}),
        "scales are fp32": CASE.replace(model={"scale_fmt": "ue8m0"}),
        "keys are e4m3fn": CASE.replace(model={"fp8": "e4m3fnuz"}),
        "the cache is dense": CASE.replace(cache={"page_pad": 16}),
    }
    for words, case in outside.items():
        assert words in run(case, implementation, LockstepDevice()).outside["k_quant_cache"]
    with pytest.raises(SourceError, match=r"has no sglang/kernels/ops/kvcache/triton_store_cache\.py"):
        load(f"sglang-v4-store:{tree.wheel('sglang', '0.5.23', {'sglang/other.py': ''})}")


def test_a_promised_reciprocal_widens_what_a_device_divides_by():
    promises = Promises(reciprocal=True)
    divided = {name: Guarantees(promises, PRESETS[name]).quantising.division for name in ("ieee", "sm90", "portable")}
    assert divided == {"ieee": "reciprocal", "sm90": "unknown", "portable": "portable"}
    assert Guarantees(Promises(), PRESETS["ieee"]).quantising.division == "ieee"


@pytest.mark.wheel
@pytest.mark.parametrize("third_party", ["INDEXFUZZ_SGLANG"], indirect=True)
def test_0_5_23_passes(third_party):
    assert found_in(load(f"sglang-v4-store:{third_party}")) == []
