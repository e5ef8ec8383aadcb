"""vLLM's fused operations: a stand-in of our own, and the real kernels, right and with mistakes planted in a copy."""

import zipfile

import pytest

from indexfuzz.core.case import Case
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations import load
from indexfuzz.implementations.loading.source import SourceError
from indexfuzz.oracles.differential import run

KERNELS = "vllm/models/deepseek_v32/common/kernels.py"

STAND_IN = """\
    import torch
    from vllm.platforms import current_platform
    from vllm.triton_utils import tl, triton
    from vllm.utils.deep_gemm import mqa_logits_use_mx_scales
    from vllm.v1.attention.ops.common import pack_ue8m0_x4

    FP8 = current_platform.fp8_dtype()
    LARGEST = 224.0 if current_platform.is_fp8_fnuz() else 448.0

    @triton.jit
    def turn(x, ptr, weight, mean, factor, table, dim, HALF: tl.constexpr, STEP: tl.constexpr, DIM: tl.constexpr):
        pair = (dim // 2) if STEP == 1 else dim % HALF
        first = (dim % 2 == 0) if STEP == 1 else dim < HALF
        inside = dim < 2 * HALF
        cos = tl.load(table + pair, mask=inside, other=1.0).to(tl.float32)
        sin = tl.load(table + HALF + pair, mask=inside, other=0.0).to(tl.float32)
        other = tl.where(inside, tl.where(first, dim + STEP, dim - STEP), dim)
        y = tl.load(ptr + other).to(tl.float32)
        y = (y - mean) * factor * tl.load(weight + other) + tl.load(weight + DIM + other)
        return x * cos + tl.where(first, -y, y) * sin

    @triton.jit
    def scale_of(x, LARGEST: tl.constexpr):
        scale = tl.maximum(tl.max(tl.abs(x)), 1e-4) / LARGEST
        return tl.exp2(tl.ceil(tl.log2(scale)))

    @triton.jit
    def q_kernel(q, positions, table, row, plain, w, out, w_out, factor, H: tl.constexpr, D: tl.constexpr,
                 HALF: tl.constexpr, STEP: tl.constexpr, LARGEST: tl.constexpr):
        token, head, dim = tl.program_id(0), tl.program_id(1), tl.arange(0, D)
        at = q + (token * H + head) * D
        x = tl.load(at + dim).to(tl.float32)
        x = turn(x, at, plain, 0.0, 1.0, table + tl.load(positions + token) * row, dim, HALF, STEP, D)
        scale = scale_of(x, LARGEST)
        tl.store(out + (token * H + head) * D + dim, (x / scale).to(out.dtype.element_ty))
        tl.store(w_out + token * H + head, tl.load(w + token * H + head) * scale * factor)

    @triton.jit
    def k_kernel(k, affine, eps, positions, table, row, slots, cache, scales, page, D: tl.constexpr, SIZE: tl.constexpr,
                 SHUFFLE: tl.constexpr, HALF: tl.constexpr, STEP: tl.constexpr, LARGEST: tl.constexpr,
                 MX: tl.constexpr):
        token, dim = tl.program_id(0), tl.arange(0, D)
        slot = tl.load(slots + token)
        if slot < 0:
            return
        x = tl.load(k + token * D + dim).to(tl.float32)
        mean = tl.sum(x) / D
        factor = tl.rsqrt(tl.sum((x - mean) * (x - mean)) / D + eps)
        n = (x - mean) * factor * tl.load(affine + dim) + tl.load(affine + D + dim)
        n = turn(n, k + token * D, affine, mean, factor, table + tl.load(positions + token) * row, dim, HALF, STEP, D)
        scale = scale_of(n, LARGEST)
        at, start = slot % SIZE, slot // SIZE * page
        if SHUFFLE:
            place = at // 16 * 16 * D + dim // 16 * 256 + at % 16 * 16 + dim % 16
        else:
            place = at * D + dim
        tl.store(cache + start + place, (n / scale).to(cache.dtype.element_ty))
        if MX:
            scale = pack_ue8m0_x4(scale)
        tl.store(scales + (start + SIZE * D) // 4 + at, scale)

    def fused_q(positions, q_pe, pe_table, q, table, ql_nope, q_scale, weights, softmax_scale, head_scale, *,
                index_rope_interleave, quantize_mqa):
        tokens, heads, dim = q.shape
        half = table.shape[1] // 2
        plain = torch.cat([torch.ones(dim), torch.zeros(dim)])
        out, w_out = torch.empty_like(q, dtype=FP8), torch.empty_like(weights, dtype=torch.float32)
        q_kernel[(tokens, heads)](q, positions, table, table.stride(0), plain, weights.contiguous(), out, w_out,
                                  softmax_scale * head_scale, heads, dim, half, 1 if index_rope_interleave else half,
                                  LARGEST)
        return out, w_out, q_pe

    def fused_norm_rope(positions, q_c, q_w, q_eps, kv_c, kv_w, kv_eps, k_pe, pe_table, k, weight, bias, eps, table, _,
                        *, slot_mapping, indexer_slot_mapping, indexer_k_cache, indexer_cache_shuffled,
                        index_rope_interleave):
        half, (_, size, width) = table.shape[1] // 2, indexer_k_cache.shape
        mx = mqa_logits_use_mx_scales()
        of_scales = torch.int32 if mx else torch.float32
        k_kernel[(len(k),)](k.contiguous(), torch.cat([weight, bias]), eps, positions, table, table.stride(0),
                            indexer_slot_mapping, indexer_k_cache.view(FP8), indexer_k_cache.view(of_scales),
                            indexer_k_cache.stride(0), width - 4, size, indexer_cache_shuffled, half,
                            1 if index_rope_interleave else half, LARGEST, mx)
        return q_c
"""

CASES = tuple(
    Case().replace(
        model={"num_heads": 4, "head_dim": 32, "quant_group": 32, "rope_dim": 16, "fp8": fp8},
        cache={"block_size": 16, "layout": layout, "page_pad": 4},
        batch={"decode": (40, 1), "prefill": ({"length": 40, "new": 7},), "next_n": 2, "max_model_len": 60},
        rope={"style": style},
        values={"seed": seed, "q": q, "k": k},
    )
    for seed, (fp8, layout, style, q, k) in enumerate(
        (
            ("e4m3fn", "normal", "neox", "normal", "normal"),
            ("e4m3fnuz", "shuffle", "interleaved", "outlier", "tied"),
            ("e4m3fn", "shuffle", "neox", "clamp", "clamp"),
            ("e4m3fnuz", "normal", "interleaved", "saturation", "zeros"),
        )
    )
)

PLANTED = {
    "q is not rotated": ("x = turn(x, at,", "turn(x, at,", "fused_q", "rope: nothing is rotated"),
    "q is rounded": (
        "scale = scale_of(x, LARGEST)",
        "x = x.to(tl.bfloat16).to(tl.float32)\n        scale = scale_of(x, LARGEST)",
        "fused_q",
        "rope: its result is rounded to bf16",
    ),
    "weights are those of head 0": (
        "tl.load(w + token * H + head)",
        "tl.load(w + token * H)",
        "fused_q",
        "q_quant: the weight is that of head 0",
    ),
    "partners are swapped": ("-y, y) * sin", "y, -y) * sin", "fused_k", "rope: pairs are turned the other way"),
    "eps": ("/ D + eps)", "/ D + 10 * eps)", "fused_k", "k_norm: eps is 1e-5"),
    "the bias is left out": (
        "n = (x - mean) * factor * tl.load(affine + dim) + tl.load(affine + D + dim)",
        "n = (x - mean) * factor * tl.load(affine + dim)",
        "fused_k",
        "k_norm: ",
    ),
    "the mean is bf16": (
        "mean = tl.sum(x) / D",
        "mean = (tl.sum(x) / D).to(tl.bfloat16).to(tl.float32)",
        "fused_k",
        "k_norm: ",
    ),
    "no floor": ("tl.maximum(tl.max(tl.abs(x)), 1e-4)", "tl.max(tl.abs(x)) + 1e-30", "fused_q", "q_quant: "),
    "tiles": ("dim // 16 * 256", "dim // 16 * 128", "fused_k", "k_quant_cache: "),
    "padding is written": ("if slot < 0:", "if slot < -1:", "fused_k", "out-of-bounds"),
}

JUDGED = {"code-mismatch", "bound-exceeded", "unwritten", "layout-mismatch", "guard-write"}
"""Kinds of findings by a judge, which names the node; a device names the argument that was misused."""


def found_in(implementation):
    return [finding for case in CASES for finding in run(case, implementation, LockstepDevice()).findings]


def is_rightly_blamed(operation, blame, findings):
    """Whether all that judges say of an operation names a node, and a known mistake; or a device has seen a kind."""
    own = [finding for finding in findings if finding.stage == operation]
    node, _, words = blame.partition(": ")
    judged = [finding.detail for finding in own if finding.kind in JUDGED]
    named = bool(judged) and all(node in detail.partition(":")[0] for detail in judged)
    return (named and any(words in detail for detail in judged)) or blame in {finding.kind for finding in own}


def planted(tree, text, old, new):
    assert text.count(old) == 1
    return load(f"vllm-v32:{tree.folder({KERNELS: text.replace(old, new)})}")


def test_a_right_stand_in_passes_and_every_operation_runs(tree):
    implementation = load(f"vllm-v32:{tree.wheel('vllm', '0.33.0', {KERNELS: STAND_IN})}")
    assert implementation.name == "vllm 0.33.0 deepseek_v32"
    for case in CASES:
        outcome = run(case, implementation, LockstepDevice())
        assert outcome.findings == []
        assert outcome.stages == ["fused_q", "fused_k"]
        assert set(outcome.widths) == {"fused_q", "fused_k"}


@pytest.mark.parametrize("name", PLANTED)
def test_a_mistake_in_a_copy_is_found_and_blamed(tree, name):
    old, new, operation, blame = PLANTED[name]
    findings = found_in(planted(tree, STAND_IN, old, new))
    assert operation in {finding.stage for finding in findings}
    assert is_rightly_blamed(operation, blame, findings)


def test_what_lies_outside_is_left_alone_by_name(tree):
    implementation = load(f"vllm-v32:{tree.folder({KERNELS: STAND_IN})}")
    outside = {
        "the first dims are rotated": CASES[0].replace(rope={"placement": "last"}),
        "rope_dim is a power of two": CASES[0].replace(model={"rope_dim": 24}),
        "scale_fmt is ue8m0": CASES[0].replace(model={"scale_fmt": "fp32"}),
        "q and k are bf16 or fp16": CASES[0].replace(memory={"activations": "fp32"}),
    }
    for words, case in outside.items():
        outcome = run(case, implementation, LockstepDevice())
        assert outcome.stages == []
        assert all(words in outcome.outside[operation] for operation in ("fused_q", "fused_k"))


def test_models_may_be_fp16_and_weights_of_heads_are_of_their_dtype(tree):
    right = load(f"vllm-v32:{tree.folder({KERNELS: STAND_IN})}")
    q = "x = tl.load(at + dim).to(tl.float32)"
    rounded = planted(tree, STAND_IN, q, q.replace("to(tl.float32)", "to(tl.bfloat16).to(tl.float32)"))
    fp16 = CASES[0].replace(memory={"activations": "fp16", "head_weights": "bf16"})
    assert run(fp16, right, LockstepDevice()).findings == []
    assert run(CASES[0], rounded, LockstepDevice()).findings == []
    assert {finding.stage for finding in run(fp16, rounded, LockstepDevice()).findings} == {"fused_q"}


def test_a_release_without_the_kernels_is_refused_in_one_sentence(tree):
    with pytest.raises(SourceError, match=r"has no vllm/models/deepseek_v32/common/kernels\.py"):
        load(f"vllm-v32:{tree.folder({'vllm/__init__.py': ''})}")


PACK = "vllm/v1/attention/ops/common.py"
PACK_TEXT = """\
    import torch
    from vllm.triton_utils import tl, triton
    NOT_WANTED = torch.cuda.get_device_properties(0)

    @triton.jit
    def pack_ue8m0_x4(scale):
        exponent = (scale.to(tl.int32, bitcast=True) >> 23) & 0xFF
        return exponent | (exponent << 8) | (exponent << 16) | (exponent << 24)
"""

WRONG_PACKS = {
    "three bytes": ("| (exponent << 24)", ""),
    "the exponent without its bias": (">> 23) & 0xFF", ">> 23) - 127"),
    "the scale above": (">> 23) & 0xFF", ">> 23) + 1 & 0xFF"),
}


PACKED = tuple(case.replace(cache={"scales": "ue8m0"}) for case in CASES)


class TestSM100:
    def test_a_right_stand_in_passes(self, tree):
        implementation = load(f"vllm-v32-sm100:{tree.folder({KERNELS: STAND_IN, PACK: PACK_TEXT})}")
        outcomes = [run(case, implementation, LockstepDevice()) for case in PACKED]
        assert all(outcome.findings == [] for outcome in outcomes)
        assert [outcome.stages for outcome in outcomes] == [["fused_k"], [], [], []]
        assert "pages are NORMAL" in outcomes[2].outside["fused_k"]
        assert "keys are e4m3fn" in outcomes[3].outside["fused_k"]
        assert any("four UE8M0 bytes" in note for note in implementation.notes)

    def test_fp32_scales_and_those_of_quarters_are_outside(self, tree):
        implementation = load(f"vllm-v32-sm100:{tree.folder({KERNELS: STAND_IN, PACK: PACK_TEXT})}")
        plain, quarters = CASES[0], PACKED[0].replace(model={"quant_group": CASES[0].model.head_dim // 4})
        assert (
            run(plain, implementation, LockstepDevice()).outside["fused_k"] == "the scales of keys are ue8m0, not fp32"
        )
        assert "a key has one scale" in run(quarters, implementation, LockstepDevice()).outside["fused_k"]

    @pytest.mark.parametrize("name", WRONG_PACKS)
    def test_scales_that_are_packed_wrongly_are_found(self, tree, name):
        old, new = WRONG_PACKS[name]
        assert PACK_TEXT.count(old) == 1
        files = {KERNELS: STAND_IN, PACK: PACK_TEXT.replace(old, new)}
        implementation = load(f"vllm-v32-sm100:{tree.folder(files)}")
        (finding,) = run(PACKED[0], implementation, LockstepDevice()).findings
        assert str(finding.signature) == "fused_k/code-mismatch/cache_scales"
        assert finding.detail.startswith("k_quant_cache: ")


REAL = {
    "eps": (
        "tl.rsqrt(var + index_k_layer_norm_eps)",
        "tl.rsqrt(var + 10 * index_k_layer_norm_eps)",
        "fused_k",
        "k_norm",
    ),
    "no bias": ("* rstd * index_k_w + index_k_b", "* rstd * index_k_w", "fused_k", "k_norm: "),
    "sign of the half": (
        "roped = normed * cos_full + sign *",
        "roped = normed * cos_full - sign *",
        "fused_k",
        "rope: pairs are turned the",
    ),
    "not rotated": ("result = tl.where(in_rope, roped, normed)", "result = normed", "fused_k", "rope: nothing"),
    "tile": (
        "block_offset % BLOCK_TILE * HEAD_TILE",
        "block_offset % BLOCK_TILE * HEAD_DIM",
        "fused_k",
        "k_quant_cache: ",
    ),
    "wrong mapping": (
        "tl.load(indexer_slot_mapping_ptr + tok_idx)",
        "tl.load(slot_mapping_ptr + tok_idx)",
        "fused_k",
        "race",
    ),
    "clamp": ("tl.div_rn(tl.maximum(amax, 1e-4), FP8_MAX)", "tl.div_rn(amax + 1e-30, FP8_MAX)", "fused_q", "q_quant: "),
    "not rotated q": ("index_q = tl.where(in_rope, roped, index_q)", "index_q = index_q", "fused_q", "rope: nothing"),
    "neighbour's scale": (
        "index_weights_ptr + tok_idx * index_weights_stride + head_idx",
        "index_weights_ptr + tok_idx * index_weights_stride + head_idx // 2",
        "fused_q",
        "q_quant: ",
    ),
}


@pytest.mark.wheel
@pytest.mark.parametrize("third_party", ["INDEXFUZZ_VLLM_WHEEL_0_33"], indirect=True)
class TestRealWheel:
    def test_0_33_on_sm100_passes(self, third_party):
        implementation = load(f"vllm-v32-sm100:{third_party}")
        found = [run(case, implementation, LockstepDevice()) for case in PACKED]
        assert found[0].stages == ["fused_k"]
        assert all(outcome.findings == [] for outcome in found)

    def test_0_33_passes(self, third_party):
        assert found_in(load(f"vllm-v32:{third_party}")) == []

    @pytest.mark.parametrize("name", REAL)
    def test_a_mistake_planted_in_a_copy_of_0_33_is_found_and_blamed(self, third_party, tree, name):
        with zipfile.ZipFile(third_party) as wheel:
            text = wheel.read(KERNELS).decode()
        old, new, operation, blame = REAL[name]
        findings = found_in(planted(tree, text, old, new))
        assert is_rightly_blamed(operation, blame, findings)
