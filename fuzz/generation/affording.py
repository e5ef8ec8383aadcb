"""Affording: how much work a case takes, which of them may be run, and what is left of one with less work."""

from collections.abc import Collection, Iterator

from indexfuzz.core.case import Case
from indexfuzz.core.stage_names import FUSED_K, GATHER, K_NORM, K_QUANT_CACHE, SLOTS
from indexfuzz.generation.measures import SIZES

MOST_PRODUCTS = 5_000_000
"""Products q . k of all rows with all keys, heads counted, that a steered case may have."""
MOST_ACTIVATIONS, MOST_CACHED, MOST_LOGITS, MOST_ENTRIES = 1 << 19, 1 << 23, 1 << 21, 1 << 20
"""Elements of q, bytes of all pages, elements of logits, and of block tables."""
LIMITS = MOST_PRODUCTS, MOST_ACTIVATIONS, MOST_CACHED, MOST_LOGITS, MOST_LOGITS, MOST_ENTRIES

OF_KEYS = frozenset({SLOTS, K_NORM, K_QUANT_CACHE, FUSED_K, GATHER})
"""Stages that look at keys alone. A case that is put to no others may have thousands of tokens: none of these takes
work by heads, or by rows times keys."""
LIMITS_OF_KEYS = 1 << 26, 1 << 20, *LIMITS[2:]
"""The same of such a case. Logits count all the same: relations may ask what becomes of the keys."""


def lighten(case: Case, *, is_pinned: bool = False) -> Iterator[Case]:
    """The case, and what is left of it with ever less work: fewer heads, and all requests but the longest short."""
    yield case
    model, batch = case.model, case.batch
    heads: dict[str, object] = {} if is_pinned else {"num_heads": 1}
    yield case.replace(model=heads)
    for length in (64, 8, 1):
        place = batch.decode.index(max(batch.decode)) if batch.decode else 0
        decode = tuple(each if i == place else min(each, length) for i, each in enumerate(batch.decode))
        for dim in (model.head_dim, model.head_dim if is_pinned else min(model.head_dim, 32)):
            dims: dict[str, object] = {
                "head_dim": dim,
                "quant_group": min(model.quant_group, dim),
                "rope_dim": min(model.rope_dim, dim),
            }
            yield case.replace(model=heads | dims, batch={"decode": decode})


def is_affordable(case: Case, *, beside: Case | None = None, stages: Collection[str] = ()) -> bool:
    """Whether a case takes no more work than the largest that are drawn, or than another one.

    Where stages are named, it is put to no others.
    """
    limits = LIMITS_OF_KEYS if stages and OF_KEYS.issuperset(stages) else LIMITS
    most = limits if beside is None else tuple(map(max, limits, _work(beside)))
    return all(work <= limit for work, limit in zip(_work(case), most, strict=True))


def _work(case: Case) -> tuple[int, ...]:
    """The numbers that LIMITS are of."""
    batch, model = case.batch, case.model
    rows = batch.decode_rows + batch.prefill_rows
    return (
        rows * sum(case.lengths) * model.num_heads,
        batch.tokens * model.num_heads * model.head_dim,
        case.num_blocks * case.cache.block_size * case.token_bytes,
        batch.decode_rows * batch.max_model_len,
        batch.prefill_rows * batch.keys,
        len(case.lengths) * (SIZES["pages"](case) + case.memory.table_extra),
    )
