"""The built-in kernels, and what their launchers promise."""

import importlib
from types import ModuleType

from torch import Tensor

from indexfuzz.core.contract import OF_DTYPES, Checked, Clause
from indexfuzz.core.guarantees import Promises
from indexfuzz.core.stage_names import FUSED, FUSED_COMPRESS, FUSED_POOL, STATEFUL
from indexfuzz.implementations.base import Implementation, WholeIndexer
from indexfuzz.reference import layout as page_layout
from indexfuzz.samples.step import Step

HEAD_DIMS = (32, 64, 128)
MAX_HEADS = 128
RATIOS = (1, 2, 4, 8, 16, 32, 64, 128)
_TILED = ("q_quant", "k_quant_cache", "gather", "prefill_logits", "paged_logits", "k_norm", "rotate", *FUSED, *STATEFUL)
_PAGED = ("k_quant_cache", "gather", "paged_logits", "fused_k", FUSED_COMPRESS, FUSED_POOL)

CONTRACT = Checked(
    (
        Clause(
            _TILED,
            lambda case: case.model.head_dim in HEAD_DIMS,
            "head_dim is 32, 64 or 128",
            "kernels/checks.py, require_head_dim",
        ),
        Clause(
            ("k_quant_cache", "fused_k", FUSED_COMPRESS, FUSED_POOL),
            lambda case: case.has_scales,
            "quant_group is head_dim, or a quarter of it with UE8M0 exponents, of powers of two, as in MXFP4",
            "kernels/scales.py, scale_groups and require_powers_of_two",
        ),
        Clause(
            ("gather",),
            lambda case: case.has_groups,
            "quant_group is head_dim, or a quarter of it where scales are UE8M0 exponents, as in MXFP4",
            "kernels/scales.py, scale_groups",
        ),
        Clause(
            _PAGED,
            lambda case: case.cache.page_layout == "normal" or case.cache.block_size % page_layout.TILE == 0,
            f"SHUFFLE pages hold a multiple of {page_layout.TILE} tokens",
            "kernels/layout.py, resolve_layout",
        ),
        Clause(
            _PAGED,
            lambda case: case.cache.page_layout != "shuffle-scales" or case.cache.scales == "mxfp4",
            "exponents are interleaved in MXFP4 alone",
            "kernels/scales.py, is_interleaved",
        ),
        Clause(
            ("prefill_logits", "paged_logits"),
            lambda case: case.model.num_heads <= MAX_HEADS,
            f"num_heads is at most {MAX_HEADS}",
            "kernels/mqa_logits.py, mqa_logits",
        ),
        Clause(
            STATEFUL,
            lambda case: case.session.node not in STATEFUL or case.session.ratio in RATIOS,
            "ratio is a power of two up to 128",
            "kernels/groups.py, require_step",
        ),
        Clause(
            (*FUSED, FUSED_COMPRESS, FUSED_POOL),
            lambda case: case.model.scale_fmt == "ue8m0",
            "scale_fmt is ue8m0",
            "kernels/fused.py, fused_q and fused_k; kernels/fused_compress.py, fused_pool.py",
        ),
    ),
    scales=("fp32", "ue8m0", "mxfp4"),
    interleaved=True,
    norms=("layer", "rms"),
    dtypes=tuple(OF_DTYPES),
)
"""The launchers' own conditions; everything outside is rejected with ValueError."""


KERNELS = "indexfuzz.kernels"


def builtin(package: str = KERNELS, name: str = "builtin") -> Implementation:
    """The kernels of this package, or of an edited copy that can be imported under another name."""
    cache, gather, norm, quant, rope, rotate, select = (
        importlib.import_module(f"{package}.{module}")
        for module in ("cache", "gather", "norm", "quant", "rope", "rotate", "select")
    )
    compress, compress_norm, fused, fused_compress, fused_pool, pool = (
        importlib.import_module(f"{package}.{module}")
        for module in ("compress", "compress_norm", "fused", "fused_compress", "fused_pool", "pool")
    )
    indexer, mqa_logits, paged_mqa_logits = (
        importlib.import_module(f"{package}.{module}") for module in ("indexer", "mqa_logits", "paged_mqa_logits")
    )
    return Implementation(
        name,
        {
            "rope": rope.rope,
            "q_quant": quant.q_quant,
            "k_quant_cache": cache.k_quant_cache,
            "gather": gather.gather,
            "prefill_logits": mqa_logits.mqa_logits,
            "paged_logits": paged_mqa_logits.paged_mqa_logits,
            "topk": indexer.topk,
            "compress": compress.compress,
            "pool": pool.pool,
            "fused_compress": fused_compress.fused_compress,
            "fused_pool": fused_pool.fused_pool,
            "compress_norm": compress_norm.compress_norm,
            "k_norm": norm.k_norm,
            "rotate": rotate.rotate,
            "fused_q": fused.fused_q,
            "fused_k": fused.fused_k,
            "slots": select.slots,
            "select": select.select,
        },
        CONTRACT,
        Promises(
            nonfinite="triton",
            dot_rows=mqa_logits.KEYS,
            rope_in_place=True,
            rope_compiled=True,
            sorted_topk=True,
            ordered_selection=True,
            between="bf16",
            wide_dots=("ue8m0", "mxfp4"),
        ),
        forward=whole_indexer(indexer),
    )


def whole_indexer(indexer: ModuleType) -> WholeIndexer:
    """The `forward` of kernels/indexer.py, or of an edited copy, as a function of a step."""

    def forward(step: Step) -> Tensor:
        case, t = step.case, step.tensors
        config = indexer.IndexerConfig(
            rope_dim=case.model.rope_dim,
            rope_style=case.rope.style,
            rope_placement=case.rope.placement,
            rope_mode=case.rope.mode,
            scale_fmt=case.model.scale_fmt,
            fp8=case.model.fp8,
            quant_group=case.model.quant_group,
            layout=case.cache.layout,
            scales=case.cache.scales,
            index_topk=case.model.index_topk,
        )
        decode = prefill = None
        if case.batch.decode:
            decode = indexer.Decode(
                context_lens=t["context_lens"],
                block_table=t["decode_table"],
                next_n=case.batch.next_n,
                max_model_len=case.batch.max_model_len,
            )
        if case.batch.prefill:
            prefill = indexer.Prefill(
                block_table=t["prefill_table"],
                cu_seqlens=t["cu_seqlens"],
                token_to_seq=t["token_to_seq"],
                ks=t["ks"],
                ke=t["ke"],
            )
        inputs = (t[name] for name in ("q", "k", "weights", "positions", "cos_sin_cache", "cache", "slot_mapping"))
        selected: Tensor = indexer.forward(*inputs, config=config, decode=decode, prefill=prefill)
        return selected

    return forward
