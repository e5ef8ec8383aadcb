"""vLLM's fused q of DeepSeek-V4: a stand-in of our own, right and with mistakes planted in it, and the real kernel."""

import pytest

from indexfuzz.core.case import Case
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations import load
from indexfuzz.implementations.loading.source import SourceError
from indexfuzz.oracles.differential import run

KERNELS = "vllm/models/deepseek_v4/common/ops/fused_indexer_q.py"

STAND_IN = """\
    import torch
    from vllm.model_executor.warmup.jit_warmup import kernel_launcher
    from vllm.model_executor.warmup.jit_warmup_triton_helper import LaunchSpec, VllmTritonJitKernel
    from vllm.platforms import current_platform
    from vllm.triton_utils import tl, triton
    from vllm.utils.import_utils import has_cutedsl

    class TurnAndQuantise(VllmTritonJitKernel["TurnAndQuantise.Key"]):
        @staticmethod
        @triton.jit
        def kernel(q_ptr, positions_ptr, table_ptr, w_ptr, out_ptr, w_out_ptr, row, factor, H: tl.constexpr,
                   D: tl.constexpr, HALF: tl.constexpr, LARGEST: tl.constexpr):
            token, head, dim = tl.program_id(0), tl.program_id(1), tl.arange(0, D)
            at = (token * H + head) * D
            start: tl.constexpr = D - 2 * HALF
            inside, first = dim >= start, dim % 2 == 0
            angle = table_ptr + tl.load(positions_ptr + token) * row + (dim - start) // 2
            cos = tl.load(angle, mask=inside, other=1.0).to(tl.float32)
            sin = tl.load(angle + HALF, mask=inside, other=0.0).to(tl.float32)
            x = tl.load(q_ptr + at + dim).to(tl.float32)
            y = tl.load(q_ptr + at + tl.where(first, dim + 1, dim - 1)).to(tl.float32)
            x = (x * cos + tl.where(first, -y, y) * sin).to(tl.bfloat16).to(tl.float32)
            scale = tl.maximum(tl.max(tl.abs(x)), 1e-4) / LARGEST
            scale = tl.exp2(tl.ceil(tl.log2(scale)))
            tl.store(out_ptr + at + dim, (x / scale).to(out_ptr.dtype.element_ty))
            tl.store(w_out_ptr + token * H + head, tl.load(w_ptr + token * H + head) * scale * factor)

        @kernel_launcher
        def __call__(self, q, positions, table, w, out, w_out, *, factor, LARGEST) -> LaunchSpec:
            return q.shape[:2], dict(row=table.stride(0), H=q.shape[1], D=q.shape[2], HALF=table.shape[1] // 2)

    KERNEL = TurnAndQuantise()

    def fused_indexer_q_rope_quant(positions, index_q, index_q_cos_sin_cache, index_weights, softmax_scale, head_scale):
        assert not has_cutedsl()
        out = torch.empty_like(index_q, dtype=current_platform.fp8_dtype())
        weights, w_out = index_weights.contiguous(), torch.empty(index_weights.shape)
        largest = 224.0 if current_platform.is_fp8_fnuz() else 448.0
        KERNEL(index_q, positions, index_q_cos_sin_cache, weights, out, w_out, factor=softmax_scale * head_scale,
               LARGEST=largest)
        return out, w_out
"""

CASES = tuple(
    Case().replace(
        model={"num_heads": 3, "head_dim": 64, "quant_group": 64, "rope_dim": rope_dim, "fp8": fp8},
        batch={"decode": (9, 30), "prefill": ({"length": 12, "new": 5},), "max_model_len": 30},
        rope={"style": "interleaved", "placement": "last", "table": table},
        values={"seed": 4},
    )
    for rope_dim, fp8, table in ((32, "e4m3fn", "fp32"), (64, "e4m3fnuz", "bf16"))
)

WRONG = {
    "nothing is rounded": (
        ".to(tl.bfloat16).to(tl.float32)\n            scale",
        "\n            scale",
        "rope: its result",
    ),
    "partners are swapped": ("-y, y) * sin", "y, -y) * sin", "rope: pairs are turned the other way"),
    "position 0": ("tl.load(positions_ptr + token) * row", "0 * row", "rope: angles are those of position 0"),
    "no floor": ("tl.maximum(tl.max(tl.abs(x)), 1e-4)", "(tl.max(tl.abs(x)) + 1e-30)", "q_quant"),
    "the weight of head 0": ("tl.load(w_ptr + token * H + head)", "tl.load(w_ptr + token * H)", "q_quant: the weight"),
}


def findings_of(implementation):
    zeros = CASES[0].replace(values={"q": "zeros"})
    return [f for case in (*CASES, zeros) for f in run(case, implementation, LockstepDevice()).findings]


def test_a_right_stand_in_passes(tree):
    implementation = load(f"vllm-v4-q:{tree.folder({KERNELS: STAND_IN})}")
    for case in CASES:
        outcome = run(case, implementation, LockstepDevice())
        assert (outcome.findings, outcome.stages) == ([], ["fused_q"])


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_in_a_copy_is_found_and_blamed(tree, name):
    old, new, blame = WRONG[name]
    assert STAND_IN.count(old) == 1
    findings = findings_of(load(f"vllm-v4-q:{tree.folder({KERNELS: STAND_IN.replace(old, new)})}"))
    assert {finding.stage for finding in findings} == {"fused_q"}
    assert any(finding.detail.startswith(blame) for finding in findings)


def test_what_lies_outside_is_left_alone_by_name(tree):
    implementation = load(f"vllm-v4-q:{tree.folder({KERNELS: STAND_IN})}")
    for words, change in {
        "the last dims are rotated": {"rope": {"placement": "first"}},
        "pairs are interleaved": {"rope": {"style": "neox"}},
        "rope_dim is a power of two": {"model": {"rope_dim": 24}},
        "the dims before them are a power of two, or none": {"model": {"rope_dim": 16}},
    }.items():
        outcome = run(CASES[0].replace(**change), implementation, LockstepDevice())
        assert outcome.stages == []
        assert words in outcome.outside["fused_q"]


def test_a_release_without_the_kernel_is_refused_in_one_sentence(tree):
    with pytest.raises(SourceError, match=f"has no {KERNELS}"):
        load(f"vllm-v4-q:{tree.folder({'vllm/__init__.py': ''})}")


@pytest.mark.wheel
@pytest.mark.parametrize("third_party", ["INDEXFUZZ_VLLM_WHEEL_0_33"], indirect=True)
def test_0_33_passes(third_party):
    assert findings_of(load(f"vllm-v4-q:{third_party}")) == []
