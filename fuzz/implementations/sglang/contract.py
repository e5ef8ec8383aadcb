"""What SGLang promises about its index K cache, read from the release under test."""

from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.implementations.callers import as_callers_do
from indexfuzz.implementations.loading.source import Project
from indexfuzz.reference.layout import resolve

CACHE_FILE = "sglang/kernels/ops/kvcache/dsa_index_k_cache.py"
KPOOL_FILE = "sglang/srt/layers/attention/dsa/kpool_fp8_index.py"
_QUANT_FILE = "sglang/kernels/ops/quantization/act_quant_triton.py"
_CALLER = "sglang/srt/layers/attention/dsa/dsa_indexer.py"
_KPOOL_CALLER = "sglang/srt/layers/attention/dsa/dsa_indexer_kpool.py"
_MODEL_FILE = "sglang/srt/models/deepseek_v2.py"
_ALL = ("q_quant", "k_quant_cache", "gather")
HEAD_DIM = 128
KPOOL_BLOCK_SIZE = 64


def cache_contract(project: Project) -> Clauses:
    """What SGLang's Indexer produces and its launchers assert."""
    quantised = ("q_quant", "k_quant_cache")
    dense = project.place(_QUANT_FILE, "assert x.is_contiguous()")
    return Clauses(
        (
            Clause(
                quantised,
                lambda case: case.model.fp8 == "e4m3fn",
                "the Triton quantisation writes e4m3fn",
                project.place(_QUANT_FILE, "y = torch.empty_like(x, dtype=torch.float8_e4m3fn)"),
            ),
            Clause(
                quantised,
                lambda case: case.model.scale_fmt == "ue8m0",
                "scale_fmt is ue8m0",
                project.place(_MODEL_FILE, 'scale_fmt="ue8m0"'),
            ),
            Clause(
                _ALL,
                lambda case: case.model.head_dim == HEAD_DIM,
                f"head_dim is {HEAD_DIM}",
                project.place(CACHE_FILE, "assert index_head_dim == 128"),
            ),
            Clause(
                _ALL,
                lambda case: case.model.quant_group == case.model.head_dim,
                "every token has one scale",
                project.place(CACHE_FILE, "assert scale_dim == 1"),
            ),
            Clause(("q_quant",), lambda case: not case.memory.q_pad, "q is dense", dense),
            *_pages(project, ("k_quant_cache", "gather")),
            Clause(("k_quant_cache",), lambda case: not case.memory.k_pad, "k is dense", dense),
            Clause(
                ("gather",),
                lambda case: not is_shuffle(case.cache.layout, case.cache.block_size),
                "pages are NORMAL: a C++ op of AITER gathers SHUFFLE ones",
                project.place(CACHE_FILE, "if _use_aiter_preshuffle:", "if _use_aiter_preshuffle:"),
            ),
            Clause(
                ("gather",),
                lambda case: bool(case.batch.prefill),
                "the step has a request in prefill",
                project.place(_CALLER, "batch_size = len(block_tables)", "if batch_size == 0:"),
            ),
            Clause(
                ("gather",),
                lambda case: not case.batch.gather_pad,
                "exactly the sum of the lengths is gathered",
                project.place(_CALLER, "seq_len_sum = torch.sum("),
            ),
            Clause(
                ("gather",),
                lambda case: not case.memory.table_pad,
                "the page table is dense",
                project.place(CACHE_FILE, "page_indices_base = batch_id * page_indice_batch_offset"),
            ),
            *as_callers_do(project.place(_CALLER, "def _get_topk_ragged(")),
        )
    )


def _pages(project: Project, stages: tuple[str, ...]) -> tuple[Clause, ...]:
    return (
        Clause(
            stages,
            lambda case: is_shuffle(case.cache.layout, case.cache.block_size) or case.cache.block_size in {1, 64},
            "NORMAL pages hold 1 token (ROCm) or 64 (CUDA)",
            project.place(_CALLER, "assert page_size == 64"),
        ),
        Clause(
            stages,
            lambda case: not is_shuffle(case.cache.layout, case.cache.block_size) or case.cache.block_size % 16 == 0,
            "SHUFFLE pages hold a multiple of 16 tokens",
            project.place(CACHE_FILE, "assert page_size % 16 == 0"),
        ),
        Clause(
            stages,
            lambda case: not case.cache.page_pad,
            "the cache is dense",
            project.place(CACHE_FILE, "assert buf.is_contiguous()"),
        ),
    )


def kpool_contract(project: Project) -> Clauses:
    """What the indexer that pools keys asserts and produces."""
    launcher = (KPOOL_FILE, "def gather_index_k_scale_prefix_into(")
    stage = ("gather",)
    return Clauses(
        (
            Clause(
                stage,
                lambda case: case.model.fp8 == "e4m3fn",
                "keys are e4m3fn",
                project.place(_KPOOL_CALLER, "k_fp8 = k_u8.view(torch.float8_e4m3fn)"),
            ),
            Clause(
                stage,
                lambda case: case.model.head_dim == HEAD_DIM,
                f"head_dim is {HEAD_DIM}",
                project.place(*launcher, "assert k_out.shape[1] == INDEX_HEAD_DIM"),
            ),
            Clause(
                stage,
                lambda case: case.model.quant_group == case.model.head_dim,
                "every key has one scale",
                project.place(*launcher, "assert scale_out.shape[0] >= seq_len"),
            ),
            Clause(
                stage,
                lambda case: case.cache.block_size == KPOOL_BLOCK_SIZE,
                f"block_size is {KPOOL_BLOCK_SIZE}",
                project.place(*launcher, "assert pool.index_page_size == BLOCK_SIZE_K"),
            ),
            Clause(
                stage,
                lambda case: not case.cache.page_pad,
                "the cache is dense",
                project.place(*launcher, "assert buf.is_contiguous()"),
            ),
            Clause(
                stage,
                lambda case: not case.batch.gather_pad,
                "exactly seq_len keys are gathered",
                project.place(_KPOOL_CALLER, "seq_len=total_k_rows"),
            ),
            *as_callers_do(project.place(_KPOOL_CALLER, "gather_index_k_scale_prefix_into(")),
        )
    )


def is_shuffle(layout: str, block_size: int) -> bool:
    """Whether pages are in the tiles that AITER reads."""
    return resolve(layout, block_size) == "shuffle"
