"""The built-in kernels, and what their launchers promise."""

from indexfuzz.core.contract import Checked, Clause
from indexfuzz.core.terms import Promises
from indexfuzz.implementations.base import Implementation
from indexfuzz.reference import layout as page_layout

HEAD_DIMS = (32, 64, 128)
MAX_HEADS = 128
_TILED = ("q_quant", "k_quant_cache", "gather", "prefill_logits", "paged_logits")
_PAGED = ("k_quant_cache", "gather", "paged_logits")

CONTRACT = Checked(
    (
        Clause(
            _TILED,
            lambda case: case.model.head_dim in HEAD_DIMS,
            "head_dim is 32, 64 or 128",
            "kernels/checks.py, require_head_dim",
        ),
        Clause(
            ("k_quant_cache", "gather"),
            lambda case: case.model.quant_group == case.model.head_dim,
            "quant_group is head_dim",
            "kernels/checks.py, require_quant_group",
        ),
        Clause(
            _PAGED,
            lambda case: (
                page_layout.resolve(case.cache.layout, case.cache.block_size) == "normal"
                or case.cache.block_size % page_layout.TILE == 0
            ),
            f"SHUFFLE pages hold a multiple of {page_layout.TILE} tokens",
            "kernels/layout.py, resolve_layout",
        ),
        Clause(
            ("prefill_logits", "paged_logits"),
            lambda case: case.model.num_heads <= MAX_HEADS,
            f"num_heads is at most {MAX_HEADS}",
            "kernels/mqa_logits.py, mqa_logits",
        ),
    )
)
"""The launchers' own conditions; everything outside is rejected with ValueError."""


def builtin() -> Implementation:
    """The kernels of this package."""
    from indexfuzz.kernels import cache, gather, indexer, mqa_logits, paged_mqa_logits, quant, rope  # noqa: PLC0415 - heavy

    return Implementation(
        "builtin",
        {
            "rope": rope.rope,
            "q_quant": quant.q_quant,
            "k_quant_cache": cache.k_quant_cache,
            "gather": gather.gather,
            "prefill_logits": mqa_logits.mqa_logits,
            "paged_logits": paged_mqa_logits.paged_mqa_logits,
            "topk": indexer.topk,
        },
        CONTRACT,
        Promises(nonfinite="triton", dot_rows=mqa_logits.KEYS, rope_in_place=True),
        forward=indexer.forward,
    )
