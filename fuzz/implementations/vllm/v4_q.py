"""vLLM's fused RoPE and quantisation of q in DeepSeek-V4's indexer, from a wheel, an unpacked wheel or a checkout.

`fused_indexer_q_rope_quant` of `models/deepseek_v4/common/ops/fused_indexer_q.py` launches a Triton kernel where CuTe
DSL is not installed, which is so on AMD GPUs. Its other kernel quantises to MXFP4, with scales that stay beside q;
there is no judge of that.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.core.guarantees import Promises
from indexfuzz.core.stage_names import FUSED_Q
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project, module_of, open_project
from indexfuzz.implementations.vllm.jit_kernel import provide_jit_kernels
from indexfuzz.implementations.vllm.platform import provide_vllm

KNOWN_VERSIONS = "0.33"
KERNELS = "vllm/models/deepseek_v4/common/ops/fused_indexer_q.py"
_MODULE = module_of(KERNELS)
_CALLER = "vllm/models/deepseek_v4/attention.py"
_LAUNCHER = "fused_indexer_q_rope_quant"


def load(path: str | Path) -> Implementation:
    """Find the kernel at a path. Raises SourceError where it is absent or has moved."""
    project = open_project(path, "vllm", known_versions=KNOWN_VERSIONS)
    module = cache(lambda fp8: _load(project, fp8))
    module("e4m3fn")

    def fused_q(
        q: Tensor,
        weights: Tensor,
        positions: Tensor,
        cos_sin_cache: Tensor,
        *,
        rope_dim: int,  # noqa: ARG001 - the width of the table
        style: str,  # noqa: ARG001 - always interleaved
        placement: str,  # noqa: ARG001 - always the last dims
        scale_fmt: str,  # noqa: ARG001 - always ue8m0
        fp8: str,
    ) -> tuple[Tensor, Tensor]:
        """Return q_fp8 [T,H,D] and q_weights [T,H]."""
        heads, head_dim = q.shape[1:]
        launch = getattr(module(fp8), _LAUNCHER)
        q_fp8, q_weights = launch(positions, q, cos_sin_cache, weights, head_dim**-0.5, heads**-0.5)
        return q_fp8, q_weights

    called = project.place(_CALLER, f"return {_LAUNCHER}(")
    return Implementation(
        f"{project.label} deepseek_v4 q",
        {FUSED_Q: fused_q},
        _contract(project),
        Promises(between="bf16"),
        notes=(
            f"read from {path}",
            f"reached by DeepSeek-V4 with an FP8 index cache where CuTe DSL is not installed, as on AMD ({called})",
        ),
        replaced=project.replaced,
        sources=project.executed,
    )


def _load(project: Project, fp8: str) -> ModuleType:
    provide = provide_vllm(fp8) | provide_jit_kernels() | {"vllm.utils.import_utils.has_cutedsl": bool}
    return Loader(project, provide=provide, execute={_MODULE: (_LAUNCHER,)}).load(_MODULE)


def _contract(project: Project) -> Clauses:
    """What the kernel computes from its arguments, and what the indexer of V4 hands to it."""
    turned = project.place(KERNELS, "rot_base = base_ptr + INDEX_Q_NOPE_DIM")
    called = project.place(_CALLER, f"return {_LAUNCHER}(")

    def clause(holds: Callable[[Case], bool], sentence: str, place: str) -> Clause:
        return Clause((FUSED_Q,), holds, sentence, place)

    return Clauses(
        (
            clause(lambda case: case.rope.placement == "last", "the last dims are rotated", turned),
            clause(lambda case: case.rope.style == "interleaved", "pairs are interleaved", turned),
            clause(
                lambda case: _is_power(case.model.rope_dim),
                "rope_dim is a power of two",
                project.place(KERNELS, "half_offset = tl.arange(0, INDEX_Q_HALF_ROT_DIM)"),
            ),
            clause(
                lambda case: _is_power(case.model.head_dim - case.model.rope_dim),
                "the dims before them are a power of two, or none",
                project.place(KERNELS, "nope_offset = tl.arange(0, INDEX_Q_NOPE_DIM)"),
            ),
            clause(lambda case: not case.memory.q_head_pad, "the heads of q are dense", called),
            clause(lambda case: not case.memory.weights_head_pad, "the weights of heads are dense", called),
            clause(lambda case: not case.memory.q_pad, "q is dense", called),
            clause(lambda case: not case.memory.fused, "q and k are no views of one", called),
            clause(lambda case: not case.memory.shift, "tensors start at multiples of 16 bytes", called),
            clause(
                lambda case: case.memory.far not in ("q", "weights"),
                "the rows of q and weights are not 2^31 elements apart",
                called,
            ),
        ),
        # The weights of heads come from `weights_proj`, which has the model's dtype (attention.py).
        dtypes=("head_weights",),
    )


def _is_power(size: int) -> bool:
    """Whether a size is a power of two, or 0."""
    return size & (size - 1) == 0
