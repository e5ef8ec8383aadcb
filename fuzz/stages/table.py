"""The stages in order: a sample flows through them from top to bottom."""

from collections.abc import Iterable
from dataclasses import replace

from indexfuzz.reference.compress import Tokens
from indexfuzz.stages.base import Stage
from indexfuzz.stages.compress import Compress
from indexfuzz.stages.compress_norm import CompressNorm
from indexfuzz.stages.fused_compress import FusedCompress
from indexfuzz.stages.fused_k import FusedK
from indexfuzz.stages.fused_pool import FusedPool
from indexfuzz.stages.fused_q import FusedQ
from indexfuzz.stages.gather import Gather
from indexfuzz.stages.k_norm import KNorm
from indexfuzz.stages.k_quant_cache import KQuantCache
from indexfuzz.stages.operation import Operation
from indexfuzz.stages.paged_logits import PagedLogits
from indexfuzz.stages.pool import Pool
from indexfuzz.stages.prefill_logits import PrefillLogits
from indexfuzz.stages.q_quant import QQuant
from indexfuzz.stages.rope import Rope
from indexfuzz.stages.rotate import Rotate
from indexfuzz.stages.select import Select, Slots
from indexfuzz.stages.stateful import Stateful
from indexfuzz.stages.topk import Topk

ROPE = Rope()
Q_QUANT = QQuant()
K_QUANT_CACHE = KQuantCache()
GATHER = Gather()
PREFILL_LOGITS = PrefillLogits()
PAGED_LOGITS = PagedLogits()
PREFILL_TOPK = Topk(PREFILL_LOGITS, "prefill_topk")
PAGED_TOPK = Topk(PAGED_LOGITS, "paged_topk")

STAGES: tuple[Stage, ...] = (
    ROPE,
    Q_QUANT,
    K_QUANT_CACHE,
    GATHER,
    PREFILL_LOGITS,
    PAGED_LOGITS,
    PREFILL_TOPK,
    PAGED_TOPK,
)

OPERATIONS: tuple[Operation, ...] = (Slots(), KNorm(), Rotate(), FusedQ(), FusedK(), Select())
"""Operations beside the stages. They take what a sample holds before its first stage."""


EVERY: tuple[Stage, ...] = (*STAGES, *OPERATIONS)
"""All of them."""

STATEFUL: tuple[Stateful, ...] = (Compress(), Pool(), FusedCompress(), FusedPool(), CompressNorm())
"""Operations that keep something from step to step; fuzz/oracles/sessions.py gives each step of them its history."""


def find(name: str, output: str = "") -> Stage:
    """The stage of a name; of one that stands in several places, the place that has an output, or the first.

    Raises LookupError where no stage has the name.
    """
    named = [stage for stage in (*EVERY, *STATEFUL) if stage.name == name]
    if not named:
        raise LookupError(f"{name!r} is no stage")
    return next((stage for stage in named if output in stage.axes), named[0])


def making_keys(node: str, requests: Iterable[Tokens]) -> Stateful:
    """The stateful operation of a node, told all tokens of each request of a step."""
    (stage,) = (stage for stage in STATEFUL if stage.name == node)
    return replace(stage, requests=tuple(requests))
