"""What vLLM promises about its ROCm indexer kernels, read from the release itself where a release says it."""

from dataclasses import dataclass
from typing import Any

from indexfuzz.case import Case
from indexfuzz.implementations.contracts import first_reason
from indexfuzz.implementations.loader import Loader
from indexfuzz.implementations.source import Project
from indexfuzz.implementations.vllm_platform import MultipleOf, provided

_OPS = "vllm/v1/attention/ops/rocm_aiter_mla_sparse.py"
_INDEXER = "vllm/model_executor/models/deepseek_v2.py"
_DISPATCH = "vllm/model_executor/layers/sparse_attn_indexer.py"
_BACKEND_MODULE = "vllm.v1.attention.backends.mla.indexer"
_BACKEND = f"{_BACKEND_MODULE.replace('.', '/')}.py"
_BLOCK_FLAT_SIZE = 64
"""Rows in a page of a model that keeps 1 of 4 keys: DeepseekV4IndexerBackend advertises 256 uncompressed tokens."""

_TILED_HEADS = frozenset({16, 32, 64, 128})


@dataclass(frozen=True)
class VllmContract:
    """In contract is what vLLM's own callers can produce on an AMD GPU without the AITER package.

    `block_sizes` are those the backend advertises, a MultipleOf for a whole family; `own_kernels_on_gfx942` and
    `runs_without_aiter` say where the callers use the kernels of this file at all; `reads_block_flat` whether the
    readers know pages of several tokens in NORMAL layout.
    """

    block_sizes: tuple[int | MultipleOf, ...]
    head_sizes: tuple[int, ...]
    own_kernels_on_gfx942: bool
    runs_without_aiter: bool
    reads_block_flat: bool

    @classmethod
    def read(cls, project: Project) -> "VllmContract":
        """Read it from a release. Without the backend's file (a partial copy), the sizes of 0.21 hold."""
        ops = project.read(_OPS)
        backend = _backend(project) if project.has(_BACKEND) else None
        return cls(
            tuple(backend.get_supported_kernel_block_sizes()) if backend is not None else (1, 64),
            tuple(backend.get_supported_head_sizes()) if backend is not None else (32, 64, 128),
            own_kernels_on_gfx942="ops.indexer_k_quant_and_cache(" not in ops,
            runs_without_aiter=project.has(_DISPATCH) and "on_gfx950()" in project.read(_DISPATCH),
            reads_block_flat="def rocm_fp8_paged_mqa_logits_triton(" in ops,
        )

    def outside(self, stage: str, case: Case) -> str | None:
        """Why vLLM's callers never produce this case for a stage, with the file that says so."""
        match stage:
            case "rope":
                return self._outside_rope(case)
            case "k_quant_cache":
                return self._outside_cache(case) or self._outside_writer(case)
            case "gather":
                return self._outside_cache(case) or self._outside_gather(case)
            case "prefill_logits":
                return (
                    "without AITER the scores are rounded to bf16 before they are summed over the heads " + f"({_OPS})"
                )
            case "paged_logits":
                return self._outside_cache(case) or self._outside_paged(case)
        return None

    def must_reject(self, stage: str, case: Case) -> bool:  # noqa: ARG002
        """Never: vLLM's launchers check nothing."""
        return False

    def _advertises(self, block_size: int) -> bool:
        return any(
            block_size % size.base == 0 if isinstance(size, MultipleOf) else block_size == size
            for size in self.block_sizes
        )

    def _outside_rope(self, case: Case) -> str | None:
        return first_reason(
            (case.rope.placement != "first", f"Indexer.forward rotates the first dims ({_INDEXER})"),
            (case.memory.q_pad > 0, f"q is the dense output of a linear layer ({_INDEXER})"),
        )

    def _outside_cache(self, case: Case) -> str | None:
        size, layout, model = case.cache.block_size, case.cache.layout, case.model
        flat = layout == "normal" and size > 1
        return first_reason(
            (not self._advertises(size), f"block_size {size} is not advertised ({_BACKEND})"),
            (model.head_dim not in self.head_sizes, f"head_dim {model.head_dim} is not advertised ({_BACKEND})"),
            (model.quant_group != model.head_dim, f"every key has one scale ({_OPS})"),
            (layout == "shuffle" and size == 1, f"pages of one token are NORMAL ({_OPS})"),
            (flat and not self.reads_block_flat, f"pages of several tokens are SHUFFLE ({_OPS})"),
            (flat and size != _BLOCK_FLAT_SIZE, f"NORMAL pages hold {_BLOCK_FLAT_SIZE} tokens ({_BACKEND})"),
            (model.fp8 == "e4m3fnuz" and not self.own_kernels_on_gfx942, f"gfx942 has C++ ops for this ({_OPS})"),
        )

    def _outside_writer(self, case: Case) -> str | None:
        flat = case.cache.layout == "normal" and case.cache.block_size > 1
        return first_reason(
            (flat, f"another kernel writes NORMAL pages of several tokens ({_OPS}, skip_k_cache_insert)"),
            (case.memory.k_pad > 0, f"k is the dense output of k_norm ({_INDEXER})"),
            (case.memory.slots != "int64", "slot_mapping is int64 (vllm/v1/worker/block_table.py)"),
            (case.model.scale_fmt != "ue8m0", f"scale_fmt is always ue8m0 ({_INDEXER})"),
        )

    def _outside_gather(self, case: Case) -> str | None:
        return first_reason((case.batch.gather_pad > 0, f"exactly total_seq_lens keys are gathered ({_OPS})"))

    def _outside_paged(self, case: Case) -> str | None:
        flat = case.cache.layout == "normal" and case.cache.block_size > 1
        refused = case.model.fp8 == "e4m3fnuz" or not self.runs_without_aiter
        return first_reason(
            (not case.batch.decode, f"steps without decode requests skip this stage ({_OPS})"),
            (not flat and refused, f"without AITER the indexer refuses to run ({_DISPATCH})"),
            (flat and case.model.num_heads not in _TILED_HEADS, "no model has this many index heads"),
        )


def _backend(project: Project) -> Any:
    wanted = {_BACKEND_MODULE: ("DeepseekV32IndexerBackend",)}
    return Loader(project, provide=provided("e4m3fn"), execute=wanted).load(_BACKEND_MODULE).DeepseekV32IndexerBackend
