"""SGLang's cache of index keys in MXFP4, from a wheel, an unpacked wheel or a checkout.

`store_fp4_index_k_cache` and `gather_fp4_index_k` of `kernels/ops/kvcache/dsv4_fp4_index_k_cache.py` quantise keys,
insert them, and gather them again. They are rounded to even, as the pools of DeepSeek-V4.1 ask for.
"""

from pathlib import Path
from types import SimpleNamespace

from torch import Tensor

from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.core.guarantees import Promises
from indexfuzz.core.stage_names import GATHER, K_QUANT_CACHE
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.callers import as_callers_do
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project, module_of
from indexfuzz.implementations.sglang.adapter import open_sglang, with_slots
from indexfuzz.implementations.sglang.contract import HEAD_DIM
from indexfuzz.reference.gather import gathered_slots

CACHE = "sglang/kernels/ops/kvcache/dsv4_fp4_index_k_cache.py"
QUANT = "sglang/kernels/ops/quantization/fp4_indexer_quant.py"
_INDEXER = "sglang.kernels.ops.attention.dsv4.fp4_indexer"
_POOL = "sglang/srt/mem_cache/deepseek_v4_memory_pool.py"
_BACKEND = "sglang/srt/layers/attention/deepseek_v4_backend.py"
_TOPK = "sglang/srt/layers/attention/dsv4/v41_indexer/full_topk.py"

AMAX_FLOOR = 6e-4
"""A scale is never below 1e-4, which is that of a row whose largest value is six times as much."""

PAGES = (64, 128)
SLOT_BYTES = HEAD_DIM // 2 + 4


def load(path: str | Path) -> Implementation:
    """Find the kernels at a path. Raises SourceError where they are absent or have moved."""
    project = open_sglang(path)
    provide = {
        f"{_INDEXER}.INDEX_K_SLOT_BYTES": SLOT_BYTES,
        "sglang.srt.runtime_context.get_platform": lambda: SimpleNamespace(is_blackwell=True),
    }
    execute = {
        module_of(CACHE): ("store_fp4_index_k_cache", "gather_fp4_index_k"),
        module_of(QUANT): ("quantize_fp4_indexer_tensor",),
    }
    kernels = Loader(project, provide=provide, execute=execute).load(module_of(CACHE))

    def k_quant_cache(
        k: Tensor,
        cache: Tensor,
        slot_mapping: Tensor,
        *,
        scale_fmt: str,  # noqa: ARG001 - always ue8m0
        fp8: str,  # noqa: ARG001 - keys are E2M1
        quant_group: int,  # noqa: ARG001 - four scales per token
        layout: str,  # noqa: ARG001 - always token order
        scales: str,  # noqa: ARG001 - always mxfp4
    ) -> None:
        """Quantise k [T,D] and insert it."""
        k, slot_mapping = with_slots(k, slot_mapping)
        kernels.store_fp4_index_k_cache(k, cache.flatten(1), slot_mapping, page_size=cache.shape[1], rne=True)

    def gather(
        cache: Tensor,
        block_table: Tensor,
        cu_seqlens: Tensor,
        token_to_seq: Tensor,
        k_fp8: Tensor,
        k_scale: Tensor,
        *,
        quant_group: int,  # noqa: ARG001 - four scales per token
        layout: str,  # noqa: ARG001 - always token order
        scales: str,  # noqa: ARG001 - always mxfp4
    ) -> None:
        """Fill k_fp8 uint8 [N,D/2] and k_scale int32 [N] with the tokens of all requests; SGLang gathers no padding."""
        slots, is_token = gathered_slots(cache, block_table, cu_seqlens, token_to_seq)
        keys, words = kernels.gather_fp4_index_k(cache.flatten(1), slots[is_token], page_size=cache.shape[1])
        k_fp8[is_token], k_scale[is_token] = keys.view(k_fp8.dtype), words

    return Implementation(
        f"{project.label} dsv41 fp4 cache",
        {K_QUANT_CACHE: k_quant_cache, GATHER: gather},
        contract(project),
        Promises(amax_floor=AMAX_FLOOR, gather_padding="untouched"),
        notes=(f"read from {path}", *reach(project)),
        replaced=project.replaced,
        sources=project.executed,
    )


def reach(project: Project) -> tuple[str, ...]:
    """By which lines of a release a model comes to these kernels, and on which hardware."""
    pool = project.place(_POOL, "for ratio, sources in low_ratio_sources.items():", "force_fp4=True")
    even = project.place(_POOL, "pool.index_k_rne = True")
    stored = project.place(_BACKEND, "def _low_ratio_write_group(", "pool.set_index_k_fp4(")
    read = project.place(_TOPK, "kv = self.token_to_kv_pool.get_low_ratio_index_k_fp4(")
    return (
        f"reached by DeepSeek-V4.1 on NVIDIA, whose layers of ratio 1 and 2 keep MXFP4 keys without a switch ({pool})",
        f"stored where no fused kernel applies ({stored}), rounded to even ({even}); gathered for DeepGEMM ({read})",
        "AMD GPUs have kernels and a layout of their own",
        "DeepSeek-V4 comes here with --enable-deepseek-v4-fp4-indexer, and rounds halves down",
    )


def contract(project: Project) -> Clauses:
    """What the pools hand to these kernels, and what those take for given."""
    both = (K_QUANT_CACHE, GATHER)
    return Clauses(
        (
            Clause(
                both,
                lambda case: case.model.head_dim == HEAD_DIM,
                f"head_dim is {HEAD_DIM}",
                project.place(CACHE, "assert input.shape[-1] == 128"),
            ),
            Clause(
                both,
                lambda case: case.has_scales,
                "every 32 dims have a scale, a power of two",
                project.place(QUANT, "GROUP_N=32"),
            ),
            Clause(
                both,
                lambda case: case.cache.block_size in PAGES,
                f"block_size is {' or '.join(map(str, PAGES))}",
                project.place(_POOL, "def dsv41_index_page_size("),
            ),
            Clause(
                both,
                lambda case: case.cache.page_layout == "normal",
                "keys lie in token order",
                project.place(CACHE, "page_offset * BLOCK + offsets"),
            ),
            Clause(
                (K_QUANT_CACHE,),
                lambda case: case.memory.slots == "int64",
                "slots are int64",
                project.place(_BACKEND, "def _low_ratio_compression_metadata(", "raw_out_loc.to(torch.int64)"),
            ),
            *as_callers_do(project.place(_POOL, "def get_index_k_fp4(")),
        ),
        scales=("mxfp4",),
    )
