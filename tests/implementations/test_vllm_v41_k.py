"""vLLM's insertion of V4.1's index keys: a stand-in of our own, right and with mistakes in it, and the real one."""

import pytest

from indexfuzz.core.case import Case
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations import load
from indexfuzz.implementations.loading.source import SourceError
from indexfuzz.oracles.differential import run

KERNELS = "vllm/models/deepseek_v41/common/ops/indexer_k_store.py"
OF_V4 = "vllm/models/deepseek_v4/common/ops/fused_indexer_q.py"

PAIRS = """\
    from vllm.triton_utils import tl, triton

    MXFP4_BLOCK_SIZE = 32

    @triton.jit
    def _code(x):
        size = tl.abs(x)
        code = (size > 0.25).to(tl.int32) + (size >= 0.75) + (size > 1.25) + (size >= 1.75) + (size > 2.5)
        return code + (size >= 3.5) + (size > 5.0) + tl.where(x < 0, 8, 0)

    @triton.jit
    def _fp32x2_to_fp4x2(x_lo, x_hi):
        return (_code(x_lo) | _code(x_hi) << 4).to(tl.uint8)
"""

STAND_IN = """\
    from vllm.platforms import current_platform
    from vllm.triton_utils import tl, triton
    from vllm.utils.deep_gemm import mqa_logits_use_mx_scales

    from . import MXFP4_BLOCK_SIZE, _fp32x2_to_fp4x2

    @triton.jit
    def _insert(k_ptr, row, positions_ptr, weight_ptr, eps, table_ptr, angles, cache_ptr, page, slots_ptr,
                SIZE: tl.constexpr, RATIO: tl.constexpr, FP4: tl.constexpr, MX: tl.constexpr, TILED: tl.constexpr):
        token, dim = tl.program_id(0), tl.arange(0, 128)
        slot, position = tl.load(slots_ptr + token), tl.load(positions_ptr + token)
        if (slot >= 0) & ((position + 1) % RATIO == 0):
            weight = tl.load(weight_ptr + dim)
            x = tl.load(k_ptr + token * row + dim).to(tl.float32)
            factor = tl.rsqrt(tl.sum(x * x, axis=0) / 128 + eps)
            x = (x * factor * weight).to(tl.bfloat16).to(tl.float32)
            even, odd = tl.split(tl.reshape(x, [64, 2]))
            pair = tl.arange(0, 64) - 32
            angle = table_ptr + position // RATIO * RATIO * angles + pair
            cos = tl.load(angle, mask=pair >= 0, other=1.0)
            sin = tl.load(angle + 32, mask=pair >= 0, other=0.0)
            low = (even * cos - odd * sin).to(tl.bfloat16).to(tl.float32)
            high = (odd * cos + even * sin).to(tl.bfloat16).to(tl.float32)
            start, offset = cache_ptr + slot // SIZE * page, slot % SIZE
            if FP4:
                low, high = tl.reshape(low, [4, 16]), tl.reshape(high, [4, 16])
                amax = tl.maximum(tl.maximum(tl.max(tl.abs(low), 1), tl.max(tl.abs(high), 1)), 6.0 * 2**-126)
                exponent = tl.ceil(tl.log2(amax / 6.0))
                factor = tl.exp2(-exponent)[:, None]
                packed = tl.reshape(_fp32x2_to_fp4x2(low * factor, high * factor), [64])
                tl.store(start + offset * 64 + tl.arange(0, 64), packed)
                tl.store(start + SIZE * 64 + offset * 4 + tl.arange(0, 4), (exponent + 127).to(tl.uint8))
            else:
                x = tl.interleave(low, high)
                exponent = tl.ceil(tl.log2(tl.maximum(tl.max(tl.abs(x), 0), 1e-4) / 448.0))
                codes = (x * tl.exp2(-exponent)).to(tl.float8e4nv).to(tl.uint8, bitcast=True)
                at = offset * 128 + dim
                if TILED:
                    at = offset // 16 * 2048 + dim // 16 * 256 + offset % 16 * 16 + dim % 16
                tl.store(start + at, codes)
                word = tl.exp2(exponent).to(tl.int32, bitcast=True)
                if MX:
                    word = (word >> 23) * 0x01010101
                tl.store((start + SIZE * 128 + offset * 4).to(tl.pointer_type(tl.int32)), word)

    def indexer_k_norm_rope_store(k_pre, positions, cos_sin_cache, weight, eps, k_cache, slots, ratio, fp4):
        assert MXFP4_BLOCK_SIZE == 32
        tiled = current_platform.is_rocm() and k_cache.shape[1] > 1
        if len(slots):
            _insert[(len(slots),)](
                k_pre, k_pre.stride(0), positions, weight, eps, cos_sin_cache, cos_sin_cache.stride(0), k_cache,
                k_cache.stride(0), slots, k_cache.shape[1], ratio, fp4, mqa_logits_use_mx_scales(), tiled)
"""

CASE = Case().replace(
    model={"head_dim": 128, "quant_group": 128, "rope_dim": 64, "k_norm": "rms"},
    cache={"block_size": 16, "layout": "normal"},
    batch={"decode": (9, 30), "prefill": ({"length": 40, "new": 31},), "max_model_len": 40, "pad_tokens": 1},
    rope={"style": "interleaved", "placement": "last"},
    values={"seed": 4},
)
CASES = {
    "": (CASE, CASE.replace(cache={"layout": "shuffle"}), CASE.replace(batch={"pad_tokens": 2})),
    "-sm100": (CASE.replace(cache={"scales": "ue8m0"}),),
    "-mxfp4": (CASE.replace(cache={"scales": "mxfp4"}, model={"quant_group": 32}, values={"k": "ties"}),),
}

LOADED = "x = tl.load(k_ptr + token * row + dim).to(tl.float32)"
CENTRED = (LOADED, f"{LOADED}\n            x -= tl.sum(x, axis=0) / 128")
WRONG = {
    "LayerNorm": ("", *CENTRED, "k_norm: the mean is subtracted"),
    "no weight": ("-mxfp4", "x * factor * weight", "x * factor", "k_norm: the weight is left out"),
    "angles of the last token": ("", "position // RATIO * RATIO * angles", "position * angles", ""),
    "partners the other way": ("-sm100", "odd * sin).to", "odd * -sin).to", "rope"),
    "halves swapped": ("-mxfp4", "low * factor, high * factor", "high * factor, low * factor", "k_quant_cache: the"),
    "the scale of FP8": ("-mxfp4", "amax / 6.0", "amax / 448.0", "k_quant_cache"),
    "three exponents": ("-sm100", "0x01010101", "0x00010101", "k_quant_cache"),
    "never tiled": ("", "if TILED:", "if TILED and SIZE > 64:", "k_quant_cache"),
    "padding written": ("", "(slot >= 0) &", "(slot >= -1) &", ""),
}  # fmt: skip


def findings_of(implementation, cases):
    return [found for case in cases for found in run(case, implementation, LockstepDevice()).findings]


@pytest.mark.parametrize("form", CASES)
def test_a_right_stand_in_passes(tree, form):
    implementation = load(f"vllm-v41-k{form}:{tree.folder({KERNELS: STAND_IN, OF_V4: PAIRS})}")
    for case in CASES[form]:
        outcome = run(case, implementation, LockstepDevice())
        assert (outcome.findings, outcome.stages) == ([], ["fused_k"])


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_in_a_copy_is_found_and_blamed(tree, name):
    form, old, new, blame = WRONG[name]
    assert STAND_IN.count(old) == 1
    folder = tree.folder({KERNELS: STAND_IN.replace(old, new), OF_V4: PAIRS})
    findings = findings_of(load(f"vllm-v41-k{form}:{folder}"), CASES[form])
    assert {finding.stage for finding in findings} == {"fused_k"}
    assert any(finding.detail.startswith(blame) for finding in findings)


def test_what_lies_outside_is_left_alone_by_name(tree):
    implementation = load(f"vllm-v41-k:{tree.folder({KERNELS: STAND_IN, OF_V4: PAIRS})}")
    for words, change in {
        "the norm of keys is rms, not layer": {"model": {"k_norm": "layer"}},
        "the scales of keys are fp32, not ue8m0": {"cache": {"scales": "ue8m0"}},
        "the last dims are rotated": {"rope": {"placement": "first"}},
        "rope_dim is 64": {"model": {"rope_dim": 32}},
        "slot_mapping is int64": {"memory": {"slots": "int32"}},
    }.items():
        outcome = run(CASE.replace(**change), implementation, LockstepDevice())
        assert outcome.stages == []
        assert words in outcome.outside["fused_k"]


def test_a_release_without_the_kernel_is_refused_in_one_sentence(tree):
    with pytest.raises(SourceError, match=f"has no {OF_V4}"):
        load(f"vllm-v41-k:{tree.folder({'vllm/__init__.py': ''})}")


@pytest.mark.wheel
@pytest.mark.parametrize("third_party", ["INDEXFUZZ_VLLM_WHEEL_0_33"], indirect=True)
@pytest.mark.parametrize("form", CASES)
def test_0_33_passes(third_party, form):
    assert findings_of(load(f"vllm-v41-k{form}:{third_party}"), CASES[form]) == []
