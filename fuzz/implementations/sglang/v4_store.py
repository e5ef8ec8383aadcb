"""SGLang's fused store of DeepSeek-V4's index keys on AMD GPUs, from a wheel, an unpacked wheel or a checkout.

`triton_fused_store_indexer` of `kernels/ops/kvcache/triton_store_cache.py` quantises keys and inserts them. Its scales
are no powers of two, and it has a much smaller floor below a row than other kernels.
"""

from functools import cache, partial
from pathlib import Path
from types import ModuleType

from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.core.guarantees import Promises
from indexfuzz.core.stage_names import K_QUANT_CACHE
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.callers import as_callers_do
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project, module_of
from indexfuzz.implementations.sglang.adapter import open_sglang, with_slots
from indexfuzz.implementations.sglang.contract import HEAD_DIM, is_shuffle

STORE = "sglang/kernels/ops/kvcache/triton_store_cache.py"
AMAX_FLOOR = 1e-8
_MODULE = module_of(STORE)
_UTILS = "sglang.srt.layers.attention.dsa.utils"
_POOL = "sglang/srt/mem_cache/deepseek_v4_memory_pool.py"
_COMPRESSOR = "sglang/srt/layers/attention/dsv4/compressor_v2.py"
_DISPATCH = "sglang/kernels/ops/attention/dsv4/attn.py"
_TILE = 16


def load(path: str | Path) -> Implementation:
    """Find the store at a path. Raises SourceError where it is absent or has moved."""
    project = open_sglang(path)
    module = cache(partial(_load, project))
    module(preshuffle=False)

    def k_quant_cache(
        k: Tensor,
        cache: Tensor,
        slot_mapping: Tensor,
        *,
        scale_fmt: str,  # noqa: ARG001 - always fp32
        fp8: str,  # noqa: ARG001 - always e4m3fn here
        quant_group: int,  # noqa: ARG001 - one scale per token
        layout: str,
    ) -> None:
        """Quantise k [T,D] and insert it."""
        blocks, block_size, width = cache.shape
        store = module(preshuffle=is_shuffle(layout, block_size)).triton_fused_store_indexer
        k, slot_mapping = with_slots(k, slot_mapping)
        store(k, cache.view(blocks, block_size * width), slot_mapping, block_size)

    return Implementation(
        f"{project.label} dsv4 store",
        {K_QUANT_CACHE: k_quant_cache},
        contract(project),
        Promises(amax_floor=AMAX_FLOOR, reciprocal=True),
        notes=(f"read from {path}", *reach(project)),
        replaced=project.replaced,
        sources=project.executed,
    )


def reach(project: Project) -> tuple[str, ...]:
    """By which lines of a release a model comes to the store, and on which hardware."""
    called = project.place(_COMPRESSOR, "token_to_kv_pool.set_index_k_fused(")
    hip = project.place(_DISPATCH, "def fused_store_cache(", "is_hip_runtime()")
    return (
        f"reached by DeepSeek-V4 on AMD ({hip}; called at {called}); NVIDIA GPUs run a CUDA kernel",
        "e4m3fnuz (gfx942) is left out: its largest code is 240 there, where other kernels scale to 224",
    )


def contract(project: Project) -> Clauses:
    """What the pool of index keys hands to the store, and what it takes for given."""
    stage = (K_QUANT_CACHE,)
    pool = project.place(_POOL, "def set_index_fused(")
    return Clauses(
        (
            Clause(
                stage,
                lambda case: case.model.head_dim == HEAD_DIM,
                f"head_dim is {HEAD_DIM}",
                project.place(STORE, "_INDEXER_HEAD_DIM ="),
            ),
            Clause(
                stage,
                lambda case: case.model.fp8 == "e4m3fn",
                "keys are e4m3fn: gfx950",
                project.place(STORE, "_FP8_DTYPE ="),
            ),
            Clause(
                stage,
                lambda case: case.model.scale_fmt == "fp32",
                "scales are fp32",
                project.place(STORE, "scale = tl.maximum(abs_max, EPS) / FP8_MAX"),
            ),
            Clause(
                stage,
                _is_tiled,
                f"SHUFFLE pages hold a multiple of {_TILE} tokens",
                project.place(STORE, "token_tile_id = slot // PRESHUFFLE_TILE"),
            ),
            Clause(
                stage,
                lambda case: not case.cache.page_pad,
                "the cache is dense",
                project.place(STORE, "bytes_per_page = cache.shape[1]"),
            ),
            Clause(
                stage,
                lambda case: not case.memory.k_pad,
                "k is dense",
                project.place(STORE, "tl.load(input_ptr + token_id * HEAD_DIM"),
            ),
            *as_callers_do(pool),
        )
    )


def _is_tiled(case: Case) -> bool:
    return not is_shuffle(case.cache.layout, case.cache.block_size) or not case.cache.block_size % _TILE


def _load(project: Project, *, preshuffle: bool) -> ModuleType:
    provide = {
        "sglang.kernels.ops.quantization.fp8_kernel.is_fp8_fnuz": bool,
        f"{_UTILS}.INDEXER_K_CACHE_PRESHUFFLE_TILE": _TILE,
        f"{_UTILS}.aiter_can_use_preshuffle_paged_mqa": lambda: preshuffle,
    }
    return Loader(project, provide=provide, execute={_MODULE: ("triton_fused_store_indexer",)}).load(_MODULE)
