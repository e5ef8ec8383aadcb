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

K_NORM: Final = "k_norm"
"""LayerNorm of k, which no stage does: what the stages are given is normed already."""

SLOTS: Final = "slots"
"""Positions to slots, where the keys of a step go; the stages are given it."""

SELECT: Final = "select"
"""Selected positions to slots, for the attention that follows the indexer."""

ROTATE: Final = "rotate"
"""Rotation of q and k by the Hadamard matrix, which changes no logit but for rounding: engines do it or leave it."""

NODES: Final = (SLOTS, K_NORM, ROPE, ROTATE, *STAGE_NAMES[1:], SELECT)
"""The elementary steps of the indexer, in order."""

OPTIONAL: Final = (ROTATE,)
"""Nodes that an indexer does without where nobody does them."""

FUSED_Q: Final = "fused_q"
FUSED_K: Final = "fused_k"

COVERS: Final = {
    SLOTS: (SLOTS,),
    K_NORM: (K_NORM,),
    ROTATE: (ROTATE,),
    FUSED_Q: (ROPE, Q_QUANT),
    FUSED_K: (K_NORM, ROPE, K_QUANT_CACHE),
    SELECT: (SELECT,),
}
"""Operations beside the stages -> the nodes that each covers. A stage is the operation of its own node."""

FUSED: Final = tuple(name for name, nodes in COVERS.items() if len(nodes) > 1)
"""Operations of several nodes."""

COMPRESS: Final = "compress"
"""Keys that stand for several tokens each: a node of sessions, whose state lives through their steps."""

POOL: Final = "pool"
"""Another such node: keys are pooled over the tokens of a group, and rotated."""

COMPRESS_NORM: Final = "compress_norm"
"""Compression of keys and their norm in one operation, which hands them on."""

FUSED_COMPRESS: Final = "fused_compress"
"""Compression of keys, and all that stands between it and the cache, in one operation."""

FUSED_POOL: Final = "fused_pool"
"""Pooling of keys and their insertion into the cache, in one operation."""

RMS_NORM: Final = "rms_norm"
"""RMSNorm of keys that stand for several tokens, which no operation does alone."""

STATEFUL_COVERS: Final = {
    COMPRESS: (COMPRESS,),
    POOL: (POOL,),
    FUSED_COMPRESS: (COMPRESS, RMS_NORM, ROPE, K_QUANT_CACHE),
    FUSED_POOL: (POOL, K_QUANT_CACHE),
    COMPRESS_NORM: (COMPRESS, RMS_NORM),
}
"""Operations that keep something from step to step -> the nodes that each covers."""

STATEFUL: Final = tuple(STATEFUL_COVERS)


def inserts(node: str) -> bool:
    """Whether a stateful operation inserts its keys into the cache itself, and hands none on."""
    return K_QUANT_CACHE in STATEFUL_COVERS[node]


FORWARD: Final = "forward"
"""An implementation's function that calls all stages, beside the stages in what is rehearsed; no operation itself."""

OPERATION_NAMES: Final = (*STAGE_NAMES, *COVERS, *STATEFUL)


def require_stage(name: str) -> str:
    """The name of a stage, or of another operation, as it is.

    Raises ValueError for any other name.
    """
    if name not in OPERATION_NAMES:
        raise ValueError(f"{name!r} is no stage; the stages are {', '.join(sorted(OPERATION_NAMES))}")
    return name
