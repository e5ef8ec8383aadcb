"""vLLM's fused insertion of DeepSeek-V3.2 and GLM-5 on Blackwell GPUs (SM100), whose scales are UE8M0.

Its readers there take MX scales. A page has the size that it has elsewhere: in the place of the fp32 scale of a key
stand four equal bytes, each the exponent of that scale as UE8M0 has it, one for every 32 dims. Cases say so by
`cache.scales`.
"""

from pathlib import Path
from typing import Any

from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.core.guarantees import Promises
from indexfuzz.core.stage_names import FUSED_K
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.loading.source import Project, open_project
from indexfuzz.implementations.vllm import v32

SCALES = "vllm/utils/deep_gemm.py"


def load(path: str | Path) -> Implementation:
    """Find the fused insertion at a path. Raises SourceError where it is absent or has moved."""
    project = open_project(path, "vllm", known_versions=v32.KNOWN_VERSIONS)
    operations = v32.Operations(project, mx_scales=True)
    operations.module("e4m3fn")

    def fused_k(*, scales: str, **others: Any) -> None:  # noqa: ARG001 - SM100 has no others
        """Norm, rotate, quantise and insert k, its scale as four equal exponents."""
        operations.fused_k(**others)

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


def contract(project: Project) -> Clauses:
    """As elsewhere, but for what NVIDIA GPUs have: e4m3fn in NORMAL pages."""
    everywhere = v32.contract(project, "flashinfer_mla_sparse.py: FlashInferMLASparseTRTLLMBackend")
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
            Clause(
                (FUSED_K,),
                lambda case: case.model.quant_group == case.model.head_dim,
                "a key has one scale, four times",
                project.place("vllm/v1/attention/ops/common.py", "def pack_ue8m0_x4("),
            ),
        ),
        scales=("ue8m0",),
        dtypes=everywhere.dtypes,
    )
