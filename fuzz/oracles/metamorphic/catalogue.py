"""All metamorphic relations.

Where a twin differs in values alone, the very same binary runs and every bit must agree. Where it differs in a size,
a stride or a constant, the compiler may choose another order of evaluation, and logits need only be as close as two
legal evaluations are. Bytes and codes agree always.
"""

from functools import partial

from indexfuzz.core.case import Case
from indexfuzz.core.stage_names import FUSED_K, GATHER, K_QUANT_CACHE, PAGED_LOGITS, PREFILL_LOGITS, Q_QUANT, ROPE
from indexfuzz.oracles.metamorphic import algebra, batching, paging, rotation, sequences, steps
from indexfuzz.oracles.metamorphic.containment import CONTAINED
from indexfuzz.oracles.metamorphic.relation import Relation, Twins
from indexfuzz.stages.nonfinite import may_be_nonfinite
from indexfuzz.stages.table import EVERY


def _of_cache(reader: Twins, writer: Twins) -> dict[str, Twins]:
    return {K_QUANT_CACHE: writer, FUSED_K: writer, GATHER: reader, PAGED_LOGITS: reader}


OF_ROWS = tuple(stage for stage in EVERY if stage.row_inputs)

PERMUTED: dict[str, Twins] = {stage.name: partial(batching.rows_permuted, stage) for stage in OF_ROWS} | {
    K_QUANT_CACHE: batching.tokens_permuted,
    FUSED_K: batching.tokens_permuted,
    GATHER: sequences.gather_permuted,
    PAGED_LOGITS: sequences.sequences_permuted,
}

SPLIT: dict[str, Twins] = {stage.name: partial(batching.rows_split, stage) for stage in OF_ROWS} | {
    K_QUANT_CACHE: batching.tokens_split,
    FUSED_K: batching.tokens_split,
    GATHER: sequences.gather_split,
    PAGED_LOGITS: sequences.sequences_split,
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
        {GATHER: paging.table_width, PAGED_LOGITS: paging.table_width},
    ),
    Relation("next-n", "with next_n rows as sequences of one row", "bounds", {PAGED_LOGITS: sequences.one_row_each}),
    Relation("batch-permuted", "with the batch permuted", "bits", PERMUTED),
    Relation("batch-split", "with the batch split in two", "bounds", SPLIT),
    Relation(
        "steps",
        "written in steps, with drafts that later tokens replace",
        "bits",
        {K_QUANT_CACHE: steps.tokens_in_steps, FUSED_K: steps.tokens_in_steps},
    ),
    Relation(
        "window-shifted", "with ks, ke and K shifted together", "bounds", {PREFILL_LOGITS: algebra.window_shifted}
    ),
    Relation("prefill-decode", "as prefill over the gathered keys", "bounds", {PAGED_LOGITS: algebra.as_prefill}),
    Relation(
        "heads-permuted",
        "with its heads permuted",
        "bounds",
        {
            ROPE: algebra.heads_permuted_rope,
            Q_QUANT: algebra.heads_permuted_quant,
            PREFILL_LOGITS: algebra.heads_permuted_logits,
            PAGED_LOGITS: algebra.heads_permuted_logits,
        },
    ),
    Relation(
        "weights-doubled",
        "with twice the weights",
        "bits",
        {
            Q_QUANT: algebra.weights_doubled_quant,
            PREFILL_LOGITS: algebra.weights_doubled_prefill,
            PAGED_LOGITS: algebra.weights_doubled_paged,
        },
    ),
    Relation("rope-mode", "with RoPE in another mode", "candidates", {ROPE: rotation.rope_modes}),
)
"""Cheap ones, for every case."""

COMPILED = Relation("rope-compiled", "with RoPE under torch.compile", "candidates", {ROPE: rotation.rope_compiled})
"""Takes seconds to compile, once per process, so that few cases ask for it."""


def relations_for(case: Case) -> tuple[Relation, ...]:
    """The relations that a case must satisfy: with NaN and infinities, whose bits differ freely, containment alone."""
    return (CONTAINED,) if may_be_nonfinite(case) else RELATIONS
