"""Measures: the sizes and strides that a case gives to tensors, which are the numbers that launchers compare.

Sizes are plain arithmetic on the case. What small tensors of integers hold is read from them, made for that alone.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.samples.integers import integer_inputs

READ: Mapping[str, Callable[[Tensor], Tensor]] = {
    "min": torch.min,
    "max": torch.max,
    "first": lambda tensor: tensor.flatten()[0],
    "last": lambda tensor: tensor.flatten()[-1],
    "sum": torch.sum,
}
"""What launchers read of a tensor of integers."""

INTEGERS = (
    *("positions", "slot_mapping", "decode_table", "prefill_table", "context_lens", "cu_seqlens", "token_to_seq"),
    *("ks", "ke", "token_to_req", "req_table"),
)
"""Inputs that hold integers."""

CONTENTS = tuple(f"{name}.{word}" for name in INTEGERS for word in READ)
"""Measures of what they hold."""

WORDS = (
    *("neox", "interleaved", "inplace", "functional", "first", "last"),
    *("ue8m0", "fp32", "e4m3fn", "e4m3fnuz", "normal", "shuffle", "auto", "shuffle-scales", "mxfp4"),
)
"""Options that are words."""

_FIRST_WORD = -1000
"""As a measure, the first word is this number, the next one less by one, and so on: no size is negative."""


NUMBERS = tuple(_FIRST_WORD - place for place in range(len(WORDS)))
"""Every word as a measure."""


def number_of(word: str) -> int | None:
    """A word as a measure; None where it is no option."""
    return _FIRST_WORD - WORDS.index(word) if word in WORDS else None


def as_number(operand: int | str | None) -> int | None:
    """An operand of a comparison as a measure; None where no measure is like it."""
    return number_of(operand) if isinstance(operand, str) else operand


def word_of(number: int) -> str:
    """The word that a number is as a measure, empty where it is none."""
    place = _FIRST_WORD - number
    return WORDS[place] if 0 <= place < len(WORDS) else ""


class Measures(dict[str, int]):
    """Every measure of a case, by name. What its tensors hold is looked at when it is asked for: that takes longer."""

    def __init__(self, case: Case) -> None:
        super().__init__((name, of(case)) for name, of in SIZES.items())
        self.update((name, number_of(of(case)) or 0) for name, of in OPTIONS.items())
        self._case, self._integers = case, dict[str, Tensor]()

    def __missing__(self, name: str) -> int:
        tensor, _, word = name.partition(".")
        self._integers = self._integers or integer_inputs(self._case)
        self[name] = _read(self._integers[tensor], word)
        return self[name]


def tensor_of(name: str) -> str:
    """The tensor of integers that a measure of contents is of."""
    return name.partition(".")[0]


def measure(case: Case) -> Measures:
    """Every measure of a case, by name."""
    return Measures(case)


def contents(case: Case) -> dict[str, int]:
    """What the integer inputs of a case hold, by `tensor.word`; 0 of an empty one."""
    tensors = integer_inputs(case)
    return {f"{name}.{word}": _read(tensors[name], word) for name in INTEGERS for word in READ}


def _read(tensor: Tensor, word: str) -> int:
    return int(READ[word](tensor)) if tensor.numel() else 0


def _columns(case: Case, lengths: tuple[int, ...]) -> int:
    """Columns of the block table of some requests, one at least."""
    pages = max((-(-length // case.cache.block_size) for length in lengths), default=0)
    return max(pages + case.memory.table_extra, 1)


def _decode_columns(case: Case) -> int:
    return _columns(case, case.batch.decode)


def _prefill_columns(case: Case) -> int:
    return _columns(case, tuple(request.length for request in case.batch.prefill))


def _q_stride(case: Case) -> int:
    return case.model.num_heads * (case.model.head_dim + case.memory.q_head_pad) + case.memory.q_pad


def _q_fp8_stride(case: Case) -> int:
    return case.model.num_heads * (case.model.head_dim + case.memory.q_fp8_head_pad) + case.memory.q_fp8_pad


def _weights_stride(case: Case) -> int:
    return case.model.num_heads * (1 + case.memory.weights_head_pad) + case.memory.weights_pad


def _q_weights_stride(case: Case) -> int:
    return case.model.num_heads * (1 + case.memory.q_weights_head_pad) + case.memory.q_weights_pad


def _inserted(case: Case) -> int:
    """Tokens that have a slot where `slot_holes` leaves none out: no padding, and no rows before a request's first."""
    batch = case.batch
    return sum(min(length, batch.next_n) for length in batch.decode) + batch.prefill_rows


SIZES: Mapping[str, Callable[[Case], int]] = {
    "num_heads": lambda case: case.model.num_heads,
    "head_dim": lambda case: case.model.head_dim,
    "quant_group": lambda case: case.model.quant_group,
    "key_bytes": lambda case: case.key_bytes,
    "token_bytes": lambda case: case.token_bytes,
    "rope_dim": lambda case: case.model.rope_dim,
    "index_topk": lambda case: case.model.index_topk,
    "block_size": lambda case: case.cache.block_size,
    "num_blocks": lambda case: case.num_blocks,
    "pages": lambda case: max((-(-length // case.cache.block_size) for length in case.lengths), default=0),
    "page_stride": lambda case: case.cache.block_size * case.token_bytes + case.cache.page_pad,
    "next_n": lambda case: case.batch.next_n,
    "decode": lambda case: len(case.batch.decode),
    "decode_rows": lambda case: case.batch.decode_rows,
    "prefill": lambda case: len(case.batch.prefill),
    "prefill_rows": lambda case: case.batch.prefill_rows,
    "keys": lambda case: case.batch.keys,
    "cached_keys": lambda case: case.batch.keys - case.batch.gather_pad,
    "tokens": lambda case: case.batch.tokens,
    "slots": lambda case: case.batch.tokens - case.batch.pad_tokens * case.batch.short_slots,
    "inserted": _inserted,
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
    "weights_stride": _weights_stride,
    "weights_head_stride": lambda case: 1 + case.memory.weights_head_pad,
    "angles_stride": lambda case: case.model.rope_dim + case.memory.angles_pad,
    "k_fp8_stride": lambda case: case.key_bytes + case.memory.k_fp8_pad,
    "q_fp8_stride": _q_fp8_stride,
    "q_fp8_head_stride": lambda case: case.model.head_dim + case.memory.q_fp8_head_pad,
    "q_fp8_request_stride": lambda case: case.batch.next_n * _q_fp8_stride(case),
    "q_weights_stride": _q_weights_stride,
    "q_weights_head_stride": lambda case: 1 + case.memory.q_weights_head_pad,
    "prefill_logits_stride": lambda case: case.batch.keys + case.memory.logits_pad,
    "paged_logits_stride": lambda case: case.batch.max_model_len + case.memory.logits_pad,
    "start_of_prefill_q": lambda case: case.batch.decode_rows * _q_fp8_stride(case) + case.memory.shift,
    "start_of_prefill_weights": lambda case: 4 * (case.batch.decode_rows * _q_weights_stride(case) + case.memory.shift),
    "lens_step": lambda case: case.memory.lens_step,
    "shift": lambda case: case.memory.shift,
    "shift_of_2_bytes": lambda case: 2 * case.memory.shift,
    "shift_of_4_bytes": lambda case: 4 * case.memory.shift,
    "shift_of_8_bytes": lambda case: 8 * case.memory.shift,
}
"""Name, and how a case has it: sizes first, then elements (of a page: bytes) between rows, heads and requests."""

OPTIONS: Mapping[str, Callable[[Case], str]] = {
    "style": lambda case: case.rope.style,
    "mode": lambda case: case.rope.mode,
    "placement": lambda case: case.rope.placement,
    "scale_fmt": lambda case: case.model.scale_fmt,
    "fp8": lambda case: case.model.fp8,
    "layout": lambda case: case.cache.page_layout,
    "asked_layout": lambda case: case.cache.layout,
    "scales": lambda case: case.cache.scales,
}
"""Options of stages, which are words. The layout is asked for, and resolved where that is "auto"."""
