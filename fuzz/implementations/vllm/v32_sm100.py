"""vLLM's fused insertion of DeepSeek-V3.2 and GLM-5 on Blackwell GPUs (SM100), whose scales are UE8M0.

Its readers there take MX scales. A page has the size that it has elsewhere: in the place of the fp32 scale of a key
stand four equal bytes, each the exponent of that scale as UE8M0 has it, one for every 32 dims. What is judged is the
scale that they stand for.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.core.guarantees import Promises
from indexfuzz.core.stage_names import FUSED_K
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.loading.source import Project, open_project
from indexfuzz.implementations.vllm import v32
from indexfuzz.reference import layout

SCALES = "vllm/utils/deep_gemm.py"
_EXPONENT_BITS = 23


def load(path: str | Path) -> Implementation:
    """Find the fused insertion at a path. Raises SourceError where it is absent or has moved."""
    project = open_project(path, "vllm", known_versions=v32.KNOWN_VERSIONS)
    operations = v32.Operations(project, mx_scales=True)
    operations.module("e4m3fn")

    def fused_k(cache: Tensor, slot_mapping: Tensor, layout: str, **others: Any) -> None:
        """Norm, rotate, quantise and insert k, then say of each scale as fp32 what its bytes stand for."""
        operations.fused_k(cache=cache, slot_mapping=slot_mapping, layout=layout, **others)
        decode_scales(cache, slot_mapping[slot_mapping >= 0].long(), layout)

    return Implementation(
        f"{project.label} deepseek_v32 sm100",
        {FUSED_K: fused_k},
        contract(project),
        Promises(between="fp32"),
        notes=(
            f"read from {path}",
            v32.reach(project)[0],
            f"scales are four UE8M0 bytes, as on SM100 ({project.place(SCALES, 'def mqa_logits_use_mx_scales(')})",
        ),
        replaced=project.replaced,
        sources=project.executed,
    )


def decode_scales(cache: Tensor, slots: Tensor, layout_name: str) -> None:
    """Put fp32 for the four UE8M0 bytes of slots int64 [n] of a cache; NaN where they are not equal, or NaN."""
    concrete = layout.resolve(layout_name, cache.shape[1])
    codes, stored = layout.read_tokens(cache, slots, concrete)
    exponents = stored.contiguous().view(torch.uint8).view(-1, layout.SCALE_BYTES).int()
    scales = (exponents[:, 0] << _EXPONENT_BITS).view(torch.float32)
    agree = (exponents == exponents[:, :1]).all(1) & (exponents[:, 0] < 0xFF)
    layout.write_tokens(cache, slots, codes, torch.where(agree, scales, float("nan")), concrete)


def contract(project: Project) -> Clauses:
    """As elsewhere, but for what NVIDIA GPUs have: e4m3fn in NORMAL pages."""
    everywhere = v32.contract(project)
    fp8 = project.place(v32.KERNELS, "_FP8_DTYPE =")
    return Clauses(
        (
            *(clause for clause in everywhere.clauses if FUSED_K in clause.stages),
            Clause((FUSED_K,), lambda case: case.model.fp8 == "e4m3fn", "keys are e4m3fn", fp8),
            Clause(
                (FUSED_K,),
                lambda case: case.cache.page_layout == "normal",
                "pages are NORMAL: AMD GPUs have SHUFFLE ones",
                project.place(v32.KERNELS, "idx_cache_shuffle = indexer_cache_shuffled"),
            ),
        )
    )
