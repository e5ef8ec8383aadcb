"""What vLLM promises about its ROCm indexer, read from the release under test where a release says it.

In contract is what vLLM's own callers can produce on an AMD GPU: gfx950 where the keys are e4m3fn, gfx942 where they
are e4m3fnuz.
"""

from typing import Any

from indexfuzz.core.case import Case
from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.implementations.callers import as_callers_do
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project
from indexfuzz.implementations.vllm.platform import MultipleOf, provide_vllm

OPS = "vllm/v1/attention/ops/rocm_aiter_mla_sparse.py"
_INDEXER = "vllm/model_executor/models/deepseek_v2.py"
_SLOTS = "vllm/v1/worker/block_table.py"
_BACKEND_MODULE = "vllm.v1.attention.backends.mla.indexer"
_BACKEND = f"{_BACKEND_MODULE.replace('.', '/')}.py"
_BLOCK_FLAT_SIZE = 64
"""Rows in a page of a model that keeps 1 of 4 keys: DeepseekV4IndexerBackend advertises 256 uncompressed tokens."""

_TILED_HEADS = frozenset({16, 32, 64, 128})
_PAGED = ("k_quant_cache", "gather", "paged_logits")


def is_flat(case: Case) -> bool:
    """Whether pages of several tokens are in NORMAL layout ("block-flat")."""
    return case.cache.block_size > 1 and case.cache.page_layout == "normal"


def kernels_contract(project: Project) -> Clauses:
    """Of the Triton kernels and of Indexer.forward."""
    writer = project.place(OPS, "def indexer_k_quant_and_cache_triton(")
    forward = project.place(_INDEXER, "class Indexer(", "def forward(")
    triton_logits = project.place(OPS, "def rocm_fp8_paged_mqa_logits_triton(")
    return Clauses(
        (
            Clause(
                ("rope",),
                lambda case: case.rope.placement == "first",
                "Indexer.forward rotates the first dims",
                project.place(_INDEXER, "class Indexer(", "def forward(", "torch.split("),
            ),
            Clause(("rope",), lambda case: not case.memory.q_pad, "q is the dense output of a linear layer", forward),
            *_pages(project, _PAGED),
            *_formats(project),
            *_flat_pages(project),
            Clause(
                ("k_quant_cache",),
                lambda case: not is_flat(case),
                "pages of several tokens are SHUFFLE: another kernel writes NORMAL ones",
                writer,
            ),
            Clause(("k_quant_cache",), lambda case: not case.memory.k_pad, "k is the dense output of k_norm", forward),
            Clause(
                ("k_quant_cache",),
                lambda case: case.memory.slots == "int64",
                "slot_mapping is int64",
                project.place(_SLOTS, "torch.int64"),
            ),
            Clause(
                ("k_quant_cache",),
                lambda case: case.model.scale_fmt == "ue8m0",
                "scale_fmt is ue8m0",
                project.place(_INDEXER, 'self.scale_fmt = "ue8m0"'),
            ),
            Clause(
                ("gather",),
                lambda case: not case.batch.gather_pad,
                "exactly total_seq_lens keys are gathered",
                project.place(OPS, "for chunk in", "chunk.total_seq_lens"),
            ),
            Clause(
                ("paged_logits",),
                is_flat,
                "only pages of several tokens in NORMAL layout come here",
                project.place(OPS, "def _indexer_k_is_c4a_block_flat("),
            ),
            Clause(
                ("paged_logits",),
                lambda case: case.model.num_heads in _TILED_HEADS,
                "num_heads is a power of two that fills a tile of tl.dot",
                triton_logits,
            ),
            *as_callers_do(project.place(OPS, "def rocm_aiter_sparse_attn_indexer(")),
        )
    )


def torch_contract(project: Project) -> Clauses:
    """Of the fallbacks in PyTorch, which take over where AITER has no kernel for the GPU."""
    calls_topk = project.read(OPS).count("_topk_indices_torch(") > 1
    return Clauses(
        (
            *_pages(project, ("paged_logits",)),
            Clause(
                ("paged_logits",),
                lambda case: is_flat(case) == _writes_flat(project, case),
                "pages of several tokens are in the layout that this release writes them in: NORMAL where a C++ op "
                "does so on gfx942 (e4m3fnuz), else SHUFFLE",
                project.place(OPS, "if not skip_k_cache_insert:"),
            ),
            Clause(
                ("topk",),
                lambda _: calls_topk,
                "the release calls its top-k in PyTorch",
                project.place(OPS, "def _topk_indices_torch("),
            ),
            *as_callers_do(project.place(OPS, "def rocm_aiter_sparse_attn_indexer(")),
        )
    )


def _pages(project: Project, stages: tuple[str, ...]) -> tuple[Clause, ...]:
    """What the backend advertises; without its file (a partial copy), the sizes of 0.21 hold."""
    backend = _backend(project) if project.has(_BACKEND) else None
    block_sizes = tuple(backend.get_supported_kernel_block_sizes()) if backend is not None else (1, 64)
    head_sizes = tuple(backend.get_supported_head_sizes()) if backend is not None else (32, 64, 128)

    def advertised(case: Case) -> bool:
        size = case.cache.block_size
        return any(size % s.base == 0 if isinstance(s, MultipleOf) else size == s for s in block_sizes)

    names = [f"a multiple of {s.base}" if isinstance(s, MultipleOf) else str(s) for s in block_sizes]
    backend_class = "class DeepseekV32IndexerBackend("
    return (
        Clause(
            stages,
            advertised,
            f"block_size is {' or '.join(names)}",
            project.place(_BACKEND, backend_class, "def get_supported_kernel_block_sizes("),
        ),
        Clause(
            stages,
            lambda case: case.model.head_dim in head_sizes,
            f"head_dim is one of {', '.join(map(str, head_sizes))}",
            project.place(_BACKEND, backend_class, "def get_supported_head_sizes("),
        ),
        Clause(
            stages,
            lambda case: case.model.quant_group == case.model.head_dim,
            "every key has one scale",
            project.place(OPS, "kv_cache_scale_ptr,"),
        ),
        Clause(
            stages,
            lambda case: case.cache.block_size > 1 or case.cache.page_layout == "normal",
            "pages of one token are NORMAL",
            project.place(OPS, 'if block_size == 1 else "SHUFFLE"'),
        ),
        *_packing(project, stages),
    )


def _packing(project: Project, stages: tuple[str, ...]) -> tuple[Clause, ...]:
    """Releases without packed multi-layer pools, for which newer kernels widened their offsets."""
    if "packed KV layout" in project.read(OPS):
        return ()
    return (
        Clause(
            stages,
            lambda case: not case.cache.page_pad,
            "pages lie behind one another: no pool is packed yet",
            project.place(OPS, "view(num_blocks, -1)"),
        ),
    )


def _formats(project: Project) -> tuple[Clause, ...]:
    """Where a release leaves the cache on gfx942 to C++ ops."""
    if not _has_own_ops_on_gfx942(project):
        return ()
    return (
        Clause(
            ("k_quant_cache", "gather"),
            lambda case: case.model.fp8 == "e4m3fn",
            "keys are e4m3fn: on gfx942 (e4m3fnuz) C++ ops run instead",
            project.place(OPS, "if _ON_GFX942:"),
        ),
    )


def _flat_pages(project: Project) -> tuple[Clause, ...]:
    """Which releases read pages of several tokens in NORMAL layout."""
    if not reads_flat_pages(project):
        return (
            Clause(
                ("gather",),
                lambda case: not is_flat(case),
                "pages of several tokens are SHUFFLE",
                project.place(OPS, "def cp_gather_indexer_k_quant_cache_triton("),
            ),
        )
    return (
        Clause(
            ("gather", "paged_logits"),
            lambda case: not is_flat(case) or case.cache.block_size == _BLOCK_FLAT_SIZE,
            f"NORMAL pages of several tokens hold {_BLOCK_FLAT_SIZE}",
            project.place(_BACKEND, "class DeepseekV4IndexerBackend(", "return [256]"),
        ),
    )


def reads_flat_pages(project: Project) -> bool:
    """Whether a release has a Triton kernel that scores NORMAL pages of several tokens."""
    return "def rocm_fp8_paged_mqa_logits_triton(" in project.read(OPS)


def _has_own_ops_on_gfx942(project: Project) -> bool:
    return "ops.indexer_k_quant_and_cache(" in project.read(OPS)


def _writes_flat(project: Project, case: Case) -> bool:
    """Whether the writer that a release uses on the GPU of a format makes NORMAL pages of several tokens."""
    return case.cache.block_size > 1 and case.model.fp8 == "e4m3fnuz" and _has_own_ops_on_gfx942(project)


def _backend(project: Project) -> Any:
    wanted = {_BACKEND_MODULE: ("DeepseekV32IndexerBackend",)}
    return (
        Loader(project, provide=provide_vllm("e4m3fn"), execute=wanted).load(_BACKEND_MODULE).DeepseekV32IndexerBackend
    )
