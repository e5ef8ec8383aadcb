"""All metamorphic relations.

Where a twin differs in values alone, the very same binary runs and every bit must agree. Where it differs in a size,
a stride or a constant, the compiler may choose another order of evaluation, and logits need only be as close as two
legal evaluations are. Bytes and codes agree always.
"""

from functools import partial

from indexfuzz.core.case import Case
from indexfuzz.oracles.metamorphic import algebra, batching, paging, rotation, sequences
from indexfuzz.oracles.metamorphic.containment import CONTAINED
from indexfuzz.oracles.metamorphic.relation import Relation, Twins
from indexfuzz.oracles.nonfinite.judge import is_drawn


def _of_cache(reader: Twins, writer: Twins) -> dict[str, Twins]:
    return {"k_quant_cache": writer, "gather": reader, "paged_logits": reader}


PERMUTED: dict[str, Twins] = {stage: partial(batching.rows_permuted, stage) for stage in batching.ROW_INPUTS} | {
    "k_quant_cache": batching.tokens_permuted,
    "gather": sequences.gather_permuted,
    "paged_logits": sequences.sequences_permuted,
}

SPLIT: dict[str, Twins] = {stage: partial(batching.rows_split, stage) for stage in batching.ROW_INPUTS} | {
    "k_quant_cache": batching.tokens_split,
    "gather": sequences.gather_split,
    "paged_logits": sequences.sequences_split,
}

RELATIONS = (
    Relation(
        "pages-permuted",
        "with its physical pages permuted",
        "bits",
        _of_cache(paging.pages_permuted_reader, paging.pages_permuted_writer),
    ),
    Relation(
        "block-size", "with another block_size", "bounds", _of_cache(paging.block_size_reader, paging.block_size_writer)
    ),
    Relation(
        "page-stride",
        "with another page stride",
        "bounds",
        _of_cache(paging.page_stride_reader, paging.page_stride_writer),
    ),
    Relation(
        "layout", "with the cache in the other layout", "bounds", _of_cache(paging.layout_reader, paging.layout_writer)
    ),
    Relation(
        "table-width",
        "with a wider or narrower block table",
        "bounds",
        {"gather": paging.table_width, "paged_logits": paging.table_width},
    ),
    Relation("next-n", "with next_n rows as sequences of one row", "bounds", {"paged_logits": sequences.one_row_each}),
    Relation("batch-permuted", "with the batch permuted", "bits", PERMUTED),
    Relation("batch-split", "with the batch split in two", "bounds", SPLIT),
    Relation(
        "window-shifted", "with ks, ke and K shifted together", "bounds", {"prefill_logits": algebra.window_shifted}
    ),
    Relation("prefill-decode", "as prefill over the gathered keys", "bounds", {"paged_logits": algebra.as_prefill}),
    Relation(
        "heads-permuted",
        "with its heads permuted",
        "bounds",
        {
            "rope": algebra.heads_permuted_rope,
            "q_quant": algebra.heads_permuted_quant,
            "prefill_logits": algebra.heads_permuted_logits,
            "paged_logits": algebra.heads_permuted_logits,
        },
    ),
    Relation(
        "weights-doubled",
        "with twice the weights",
        "bits",
        {
            "q_quant": algebra.weights_doubled_quant,
            "prefill_logits": algebra.weights_doubled_prefill,
            "paged_logits": algebra.weights_doubled_paged,
        },
    ),
    Relation("rope-mode", "with RoPE in another mode", "candidates", {"rope": rotation.rope_modes}),
)
"""Cheap ones, for every case."""

COMPILED = Relation("rope-compiled", "with RoPE under torch.compile", "candidates", {"rope": rotation.rope_compiled})
"""Takes seconds to compile, once per process."""


def relations_for(case: Case) -> tuple[Relation, ...]:
    """The relations that a case must satisfy: with NaN and infinities, whose bits differ freely, containment alone."""
    return (CONTAINED,) if is_drawn(case) else RELATIONS
