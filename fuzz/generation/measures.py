"""Measures: the sizes and strides that a case gives to tensors, which are the numbers that launchers compare.

All are plain arithmetic on the case; no tensor is made.
"""

from collections.abc import Callable, Mapping

from indexfuzz.core.case import Case


def measure(case: Case) -> dict[str, int]:
    """Every measure of a case, by name."""
    return {name: of(case) for name, of in MEASURES.items()}


def _columns(case: Case, lengths: tuple[int, ...]) -> int:
    """Columns of the block table of some requests."""
    return max((-(-length // case.cache.block_size) for length in lengths), default=0) + case.memory.table_extra


def _decode_columns(case: Case) -> int:
    return _columns(case, case.batch.decode)


def _prefill_columns(case: Case) -> int:
    return _columns(case, tuple(request.length for request in case.batch.prefill))


def _q_stride(case: Case) -> int:
    return case.model.num_heads * (case.model.head_dim + case.memory.q_head_pad) + case.memory.q_pad


def _q_fp8_stride(case: Case) -> int:
    return case.model.num_heads * (case.model.head_dim + case.memory.q_fp8_head_pad) + case.memory.q_fp8_pad


MEASURES: Mapping[str, Callable[[Case], int]] = {
    "num_heads": lambda case: case.model.num_heads,
    "head_dim": lambda case: case.model.head_dim,
    "rope_dim": lambda case: case.model.rope_dim,
    "index_topk": lambda case: case.model.index_topk,
    "block_size": lambda case: case.cache.block_size,
    "num_blocks": lambda case: case.num_blocks,
    "pages": lambda case: max((-(-length // case.cache.block_size) for length in case.lengths), default=0),
    "page_stride": lambda case: case.cache.block_size * (case.model.head_dim + 4) + case.cache.page_pad,
    "next_n": lambda case: case.batch.next_n,
    "decode": lambda case: len(case.batch.decode),
    "decode_rows": lambda case: case.batch.decode_rows,
    "prefill": lambda case: len(case.batch.prefill),
    "prefill_rows": lambda case: case.batch.prefill_rows,
    "keys": lambda case: case.batch.keys,
    "cached_keys": lambda case: case.batch.keys - case.batch.gather_pad,
    "tokens": lambda case: case.batch.tokens,
    "slots": lambda case: case.batch.tokens - case.batch.pad_tokens * case.batch.short_slots,
    "head_rows": lambda case: case.batch.tokens * case.model.num_heads,
    "context": lambda case: max(case.lengths, default=0),
    "decode_context": lambda case: max(case.batch.decode, default=0),
    "shortest": lambda case: min(case.batch.decode, default=0),
    "first_decode": lambda case: case.batch.decode[0] if case.batch.decode else 0,
    "last_decode": lambda case: case.batch.decode[-1] if case.batch.decode else 0,
    "first_prefill": lambda case: case.batch.prefill[0].length if case.batch.prefill else 0,
    "last_prefill": lambda case: case.batch.prefill[-1].length if case.batch.prefill else 0,
    "first_window": lambda case: case.batch.prefill[0].length - case.batch.prefill[0].new if case.batch.prefill else 0,
    "max_model_len": lambda case: case.batch.max_model_len,
    "decode_columns": _decode_columns,
    "prefill_columns": _prefill_columns,
    "decode_table_stride": lambda case: _decode_columns(case) + case.memory.table_pad,
    "prefill_table_stride": lambda case: _prefill_columns(case) + case.memory.table_pad,
    "q_stride": _q_stride,
    "q_head_stride": lambda case: case.model.head_dim + case.memory.q_head_pad,
    "k_stride": lambda case: case.model.head_dim + case.memory.k_pad,
    "weights_stride": lambda case: case.model.num_heads + case.memory.weights_pad,
    "angles_stride": lambda case: case.model.rope_dim + case.memory.angles_pad,
    "k_fp8_stride": lambda case: case.model.head_dim + case.memory.k_fp8_pad,
    "q_fp8_stride": _q_fp8_stride,
    "q_fp8_head_stride": lambda case: case.model.head_dim + case.memory.q_fp8_head_pad,
    "q_fp8_request_stride": lambda case: case.batch.next_n * _q_fp8_stride(case),
    "q_weights_stride": lambda case: case.model.num_heads + case.memory.q_weights_pad,
    "prefill_logits_stride": lambda case: case.batch.keys + case.memory.logits_pad,
    "paged_logits_stride": lambda case: case.batch.max_model_len + case.memory.logits_pad,
    "lens_step": lambda case: case.memory.lens_step,
    "shift": lambda case: case.memory.shift,
}
"""Name, and how a case has it: sizes first, then elements (of a page: bytes) between rows, heads and requests."""
