"""The names of the stages, in the order of the indexer: for what has to start without torch, and in signatures.

What is true of a stage besides its name stands in its file in fuzz/stages/.
"""

from typing import Final

ROPE: Final = "rope"
Q_QUANT: Final = "q_quant"
K_QUANT_CACHE: Final = "k_quant_cache"
GATHER: Final = "gather"
PREFILL_LOGITS: Final = "prefill_logits"
PAGED_LOGITS: Final = "paged_logits"
TOPK: Final = "topk"

STAGE_NAMES: Final = (ROPE, Q_QUANT, K_QUANT_CACHE, GATHER, PREFILL_LOGITS, PAGED_LOGITS, TOPK)


def require_stage(name: str) -> str:
    """The name of a stage as it is.

    Raises ValueError for any other name.
    """
    if name not in STAGE_NAMES:
        raise ValueError(f"{name!r} is no stage; the stages are {', '.join(sorted(STAGE_NAMES))}")
    return name
