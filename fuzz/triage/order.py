"""An order on cases: what makes one case smaller than another."""

from indexfuzz.core.case import Case
from indexfuzz.core.case_parts import Regime
from indexfuzz.core.session import Session

DEFAULT = Case()
SIMPLE_REGIMES: tuple[Regime, ...] = ("zeros", "exact", "normal")
SIZES = {
    "model": ("num_heads", "head_dim", "rope_dim", "quant_group", "index_topk"),
    "cache": ("block_size", "spare_blocks"),
    "batch": ("decode", "prefill", "next_n", "max_model_len"),
    "values": ("rng", "seed", "q", "k", "weights", "cache", "rope", "set"),
    "session": ("node", "ratio", "overlap", "pooling", "steps"),
}
"""What of a case is compared as a size or as values; all else are plain fields."""

PLAIN = tuple(
    (part, name) for part, fields in DEFAULT for name in type(fields).model_fields if name not in SIZES.get(part, ())
)
"""(part, field) of all fields whose default is the simplest that they can be."""


def is_smaller(case: Case, other: Case) -> bool:
    """Whether a case is smaller than another one.

    Of sessions, the one with fewer steps, requests, tokens. Fewer requests count most, then fewer tokens in the step,
    tokens in the cache, heads, dims, and smaller and fewer pages; then plain fields closer to their defaults, simpler
    values, fewer and rounder overrides, a smaller seed.
    """
    return size_of(case) < size_of(other)


def rank(regime: Regime) -> int:
    """How simple the values of a regime are: 0 is the simplest."""
    return SIMPLE_REGIMES.index(regime) if regime in SIMPLE_REGIMES else len(SIMPLE_REGIMES)


def size_of(case: Case) -> tuple[int, ...]:
    """What `is_smaller` compares."""
    model, cache, batch, values = case.model, case.cache, case.batch, case.values
    overrides = [entry for entries in values.set.values() for entry in entries]
    return (
        *_session_size(case.session),
        len(case.lengths),
        batch.tokens,
        sum(case.lengths),
        model.num_heads,
        model.head_dim,
        cache.block_size,
        cache.spare_blocks,
        batch.next_n,
        model.index_topk,
        model.rope_dim,
        model.quant_group,
        batch.max_model_len,
        *(_distance(case, part, name) for part, name in PLAIN),
        sum(map(rank, (values.q, values.k, values.weights, values.cache, values.rope))),
        len(overrides),
        sum(value != (1.0).hex() for *_, value in overrides),
        values.seed,
    )


def _session_size(session: Session) -> tuple[int, ...]:
    turns = [turn for step in session.steps for turn in step.turns]
    return (
        len(session.steps),
        len({turn.request for turn in turns}),
        len(turns),
        sum(len(step.forks) + len(step.free) for step in session.steps),
        sum(turn.new + turn.drafts for turn in turns),
        sum(step.pad_tokens for step in session.steps),
        sum(turn.drafts + turn.accepted for turn in turns),
        session.ratio,
        session.overlap,
        session.pooling != "softmax",
        sum(turn.request for turn in turns),
    )


def _distance(case: Case, part: str, name: str) -> int:
    """How far a plain field is from its default; a choice is as far as any other."""
    value, default = getattr(getattr(case, part), name), getattr(getattr(DEFAULT, part), name)
    return abs(value - default) if isinstance(value, int) else int(value != default)
