"""The built-in kernels, and what their launchers promise."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from indexfuzz.case import Case
from indexfuzz.implementations.base import Implementation
from indexfuzz.reference import layout as page_layout
from indexfuzz.terms import Promises

HEAD_DIMS = (32, 64, 128)
MAX_HEADS = 128
TILED = frozenset({"q_quant", "k_quant_cache", "gather", "prefill_logits", "paged_logits"})
PAGED = frozenset({"k_quant_cache", "gather", "paged_logits"})
SCALED = frozenset({"k_quant_cache", "gather"})


@dataclass(frozen=True)
class BuiltinContract:
    """Everything outside has to be rejected with ValueError."""

    def outside(self, stage: str, case: Case) -> str | None:
        """The launchers' own conditions, read from kernels/."""
        model, block_size = case.model, case.cache.block_size
        if stage in TILED and model.head_dim not in HEAD_DIMS:
            return f"head_dim {model.head_dim} is not 32, 64 or 128"
        if stage in SCALED and model.quant_group != model.head_dim:
            return f"quant_group {model.quant_group} differs from head_dim {model.head_dim}"
        shuffled = page_layout.resolve(case.cache.layout, block_size) == "shuffle"
        if stage in PAGED and shuffled and block_size % page_layout.TILE:
            return f"SHUFFLE needs a block_size that is a multiple of {page_layout.TILE}, not {block_size}"
        if stage.endswith("logits") and model.num_heads > MAX_HEADS:
            return f"num_heads {model.num_heads} exceeds {MAX_HEADS}"
        return None

    def must_reject(self, stage: str, case: Case) -> bool:
        """A launcher that accepts what it cannot do is a bug."""
        return self.outside(stage, case) is not None


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
        BuiltinContract(),
        Promises(nonfinite="triton", dot_rows=mqa_logits.KEYS),
    )


def builtin_forward() -> Callable[..., Tensor]:
    """All stages at once, as a model calls them."""
    from indexfuzz.kernels import indexer  # noqa: PLC0415 - heavy

    return indexer.forward
