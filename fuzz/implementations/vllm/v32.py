"""vLLM's fused operations of DeepSeek-V3.2 and GLM-5, from a wheel, an unpacked wheel or a checkout.

`models/deepseek_v32/common/kernels.py` is what these models run on NVIDIA and AMD GPUs: `fused_norm_rope` norms,
rotates, quantises and inserts k (beside what it does for MLA, which gets as little work as possible here), `fused_q`
rotates and quantises q. Both get what `attention.py` of the same folder hands them.
"""

from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.core.guarantees import Promises
from indexfuzz.core.stage_names import FUSED_K, FUSED_Q
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project, module_of, open_project
from indexfuzz.implementations.vllm.platform import provide_vllm
from indexfuzz.reference.layout import resolve

KNOWN_VERSIONS = "0.33"
FOLDER = "vllm/models/deepseek_v32"
KERNELS = f"{FOLDER}/common/kernels.py"
_CALLER, _ROCM, _REGISTRY = f"{FOLDER}/attention.py", f"{FOLDER}/amd/rocm.py", f"{FOLDER}/__init__.py"
_BACKENDS = "vllm/v1/attention/backends/mla"
_MODULE = module_of(KERNELS)
_PACK = "vllm.v1.attention.ops.common"
_HEAD_DIMS = (32, 64, 128)
_TILE = 16
_MLA_DIM = 16
"""Dims of the MLA tensors that are computed beside the indexer's, as few as the kernels take."""


def load(path: str | Path) -> Implementation:
    """Find the fused operations at a path. Raises SourceError where they are absent or have moved."""
    project = open_project(path, "vllm", known_versions=KNOWN_VERSIONS)
    operations = Operations(project)
    operations.module("e4m3fn")
    return Implementation(
        f"{project.label} deepseek_v32",
        {FUSED_Q: operations.fused_q, FUSED_K: operations.fused_k},
        contract(project),
        Promises(between="fp32"),
        notes=(f"read from {path}", *reach(project), "scales are fp32, as on all GPUs but SM100"),
        replaced=project.replaced,
        sources=project.executed,
    )


def reach(project: Project) -> tuple[str, ...]:
    """By which lines of a release a model comes to these operations, and on which hardware."""
    cuda = project.place(_REGISTRY, "is_cuda()", "GlmMoeDsaForCausalLM")
    rocm = project.place(_REGISTRY, "is_rocm()", "GlmMoeDsaForCausalLM")
    places = [project.place(_CALLER, "def forward(", text) for text in ("fused_norm_rope(", "fused_q(")]
    return (
        (
            f"reached by DeepSeek-V3.2 and GLM-5 on NVIDIA ({cuda}; called at {', '.join(places)}); where CuTe DSL "
            "supports the GPU, it takes the place of fused_q"
        ),
        f"and on AMD ({rocm}; called at {project.place(_ROCM, 'q_c = fused_norm_rope(')})",
    )


class Operations:
    """The launchers of one release, with the signatures of the operations; scales are MX scales on SM100 alone."""

    def __init__(self, project: Project, *, mx_scales: bool = False) -> None:
        self._project = project
        self._mx_scales = mx_scales
        self.module = cache(self._load)
        """The executed file for an FP8 format, which vLLM fixes while the file is imported."""

    def fused_q(
        self,
        q: Tensor,
        weights: Tensor,
        positions: Tensor,
        cos_sin_cache: Tensor,
        *,
        rope_dim: int,  # noqa: ARG002 - the width of the table
        style: str,
        placement: str,  # noqa: ARG002 - always the first dims
        scale_fmt: str,  # noqa: ARG002 - always ue8m0
        fp8: str,
    ) -> tuple[Tensor, Tensor]:
        """Return q_fp8 [T,H,D] and q_weights [T,H], of the indexer; what is made for MLA is dropped."""
        tokens, heads, head_dim = q.shape
        mla = q.new_zeros(tokens, 1, _MLA_DIM)
        q_fp8, q_weights, _ = self.module(fp8).fused_q(
            positions,
            mla,
            q.new_zeros(len(cos_sin_cache), _MLA_DIM),
            q,
            cos_sin_cache,
            mla,
            torch.ones(1, device=q.device),
            weights,
            head_dim**-0.5,
            heads**-0.5,
            index_rope_interleave=style == "interleaved",
            quantize_mqa=False,
        )
        return q_fp8, q_weights

    def fused_k(
        self,
        k: Tensor,
        k_norm_weight: Tensor,
        k_norm_bias: Tensor,
        positions: Tensor,
        cos_sin_cache: Tensor,
        cache: Tensor,
        slot_mapping: Tensor,
        *,
        eps: float,
        rope_dim: int,  # noqa: ARG002 - the width of the table
        style: str,
        placement: str,  # noqa: ARG002 - always the first dims
        scale_fmt: str,  # noqa: ARG002 - always ue8m0
        fp8: str,
        quant_group: int,  # noqa: ARG002 - one scale per token
        layout: str,
    ) -> None:
        """Norm, rotate, quantise and insert k; MLA has no cache here, and other slots than the indexer."""
        tokens = len(k)
        mla, plain = k.new_zeros(tokens, _MLA_DIM), k.new_ones(_MLA_DIM)
        self.module(fp8).fused_norm_rope(
            positions,
            mla,
            plain,
            eps,
            mla,
            plain,
            eps,
            mla,
            k.new_zeros(len(cos_sin_cache), _MLA_DIM),
            k,
            k_norm_weight,
            k_norm_bias,
            eps,
            cos_sin_cache,
            torch.zeros((tokens, _MLA_DIM), dtype=torch.int32, device=k.device),
            slot_mapping=slot_mapping.clamp_max(0),
            indexer_slot_mapping=slot_mapping,
            indexer_k_cache=cache,
            indexer_cache_shuffled=resolve(layout, cache.shape[1]) == "shuffle",
            index_rope_interleave=style == "interleaved",
        )

    def _load(self, fp8: str) -> ModuleType:
        provide = provide_vllm(fp8) | {
            "vllm.utils.deep_gemm.mqa_logits_use_mx_scales": lambda: self._mx_scales,
            "vllm.v1.kv_cache_interface.is_quantized_kv_cache": lambda dtype: dtype.startswith("fp8"),
        }
        execute = {_MODULE: ("fused_norm_rope", "fused_q")} | ({_PACK: ("pack_ue8m0_x4",)} if self._mx_scales else {})
        return Loader(self._project, provide=provide, execute=execute).load(_MODULE)


def contract(project: Project, backend: str = "rocm_aiter_mla_sparse.py: ROCMAiterMLASparseBackend") -> Clauses:
    """What the callers hand to the fused operations, and what the kernels assert or compute from it.

    Models may be fp16 where a backend of sparse MLA supports that: `backend` is a file of such a one, and its class.
    """
    file, _, name = backend.partition(": ")
    both = (FUSED_Q, FUSED_K)
    called = project.place(_CALLER, "def forward(", "fused_q(")
    dense = project.place(_CALLER, "index_q = index_q.view(")
    partner = project.place(KERNELS, "def _fused_q_kernel(", "^ INDEX_Q_HALF_ROT_DIM")
    dtypes = project.place(f"{_BACKENDS}/{file}", f"class {name}(", "supported_dtypes")
    return Clauses(
        (
            Clause(
                both,
                lambda case: case.model.head_dim in _HEAD_DIMS,
                "head_dim is a power of two",
                project.place(KERNELS, "tl.arange(0, INDEX_Q_HEAD_DIM)"),
            ),
            Clause(both, lambda case: case.rope.placement == "first", "the first dims are rotated", partner),
            Clause(
                both,
                lambda case: case.model.rope_dim & (case.model.rope_dim - 1) == 0,
                "rope_dim is a power of two: partners are found by XOR",
                partner,
            ),
            Clause(
                (FUSED_K,),
                lambda case: not case.batch.short_slots or not case.batch.pad_tokens,
                "every token has an entry in slot_mapping",
                project.place(KERNELS, "tl.load(slot_mapping_ptr + tok_idx)"),
            ),
            Clause(
                (FUSED_K,),
                lambda case: case.memory.slots == "int64",
                "slot_mapping is int64",
                project.place("vllm/v1/worker/block_table.py", "torch.int64"),
            ),
            Clause(
                (FUSED_K,),
                _is_tiled,
                f"SHUFFLE pages hold a multiple of {_TILE} tokens",
                project.place(KERNELS, "assert idx_cache_block_size % _INDEXER_CACHE_BLOCK_TILE == 0"),
            ),
            Clause((FUSED_Q,), lambda case: not case.memory.q_pad, "q is dense", dense),
            Clause((FUSED_Q,), lambda case: not case.memory.q_head_pad, "the heads of q are dense", dense),
            Clause((FUSED_Q,), lambda case: not case.memory.weights_head_pad, "the weights of heads are dense", called),
            Clause(both, lambda case: case.memory.activations != "fp32", "q and k are bf16 or fp16", dtypes),
            Clause(both, lambda case: not case.memory.fused, "q and k are no views of one", called),
            Clause(both, lambda case: not case.memory.angles_pad, "the table of angles is dense", called),
            Clause(both, lambda case: not case.memory.shift, "tensors start at multiples of 16 bytes", called),
            Clause(
                both,
                lambda case: case.memory.far not in ("q", "k", "weights"),
                "the rows of q, k and weights are not 2^31 elements apart",
                called,
            ),
        ),
        # The weights of heads are columns of what `wk_weights_proj` makes, in the model's dtype (attention.py).
        dtypes=("activations", "head_weights"),
    )


def _is_tiled(case: Case) -> bool:
    return case.cache.page_layout == "normal" or not case.cache.block_size % _TILE
