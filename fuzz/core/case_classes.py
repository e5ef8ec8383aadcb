"""Classes of cases: what two cases have in common where only the exact sizes differ.

A choice is a class of its own. A size is one of a few: none, one, several, around tiles and pages, a power of two or
not. Kernels and launchers switch paths at just these.
"""

from collections.abc import Callable, Iterator, Mapping

from indexfuzz.core.case import Case
from indexfuzz.core.case_parts import TILE

OF_PARTS = {
    "model": ("scale_fmt", "fp8", "k_norm"),
    "cache": ("page_layout", "pages", "shared_prefix", "scales", "others"),
    "batch": ("lens", "short_slots", "empty_windows", "pad_seq", "long_windows", "positions"),
    "rope": ("style", "placement", "mode", "table"),
    "memory": (
        *("table_tail", "slots", "far", "shifted", "fused"),
        *("indices", "positions", "head_weights", "norm_weights", "activations"),
    ),
    "values": ("q", "k", "weights", "cache", "rope"),
    "session": ("node", "overlap", "pooling"),
}
"""Part -> fields whose values are classes."""

GAPS = {
    "cache": ("spare_blocks", "page_pad"),
    "batch": ("pad_tokens", "gather_pad", "gather_holes", "select_holes", "slot_holes", "gather_cut"),
    "memory": (
        *("k_pad", "q_pad", "weights_pad", "table_pad", "table_extra", "k_fp8_pad", "q_fp8_pad", "q_weights_pad"),
        *("logits_pad", "angles_pad", "missing_pages", "q_head_pad", "q_fp8_head_pad", "lens_pad", "shift"),
        *("columns_pad", "weights_head_pad", "q_weights_head_pad"),
    ),
}
"""Part -> fields of which it matters whether there is any, and whether it keeps what lies behind it aligned."""

SIZES: Mapping[str, Callable[[Case], int]] = {
    "num_heads": lambda case: case.model.num_heads,
    "head_dim": lambda case: case.model.head_dim,
    "index_topk": lambda case: case.model.index_topk,
    "block_size": lambda case: case.cache.block_size,
    "tokens": lambda case: case.batch.tokens,
    "keys": lambda case: case.batch.keys,
    "prefill_rows": lambda case: case.batch.prefill_rows,
    "decode_rows": lambda case: case.batch.decode_rows,
    "longest": lambda case: max(case.lengths, default=0),
    "next_n": lambda case: case.batch.next_n,
    "requests": lambda case: len(case.lengths),
    "steps": lambda case: len(case.session.steps),
    "ratio": lambda case: case.session.ratio,
    "drafts": lambda case: case.session.max_drafts,
    "session_tokens": lambda case: case.session.length,
}

RELATIONS: Mapping[str, Callable[[Case], object]] = {
    "rotates all dims": lambda case: case.model.rope_dim == case.model.head_dim,
    "one scale a token": lambda case: case.model.quant_group == case.model.head_dim,
    "more keys than top-k": lambda case: max(case.lengths, default=0) > case.model.index_topk,
    "decodes": lambda case: bool(case.batch.decode),
    "prefills": lambda case: bool(case.batch.prefill),
    "has a request without keys": lambda case: 0 in case.lengths,
    "has a request of one key": lambda case: 1 in case.lengths,
    "fills its last page": lambda case: any(n and n % case.cache.block_size == 0 for n in case.lengths),
    "has a key on a new page": lambda case: any(n % case.cache.block_size == 1 for n in case.lengths),
    "has fewer keys than drafts": lambda case: any(n < case.batch.next_n for n in case.batch.decode),
    "steps over rows of a request": lambda case: case.batch.row_step > 1,
    "steps over entries of lens": lambda case: case.memory.lens_step > 1,
    "has keys before its new ones": lambda case: any(p.new < p.length for p in case.batch.prefill),
    "has single values set": lambda case: bool(case.values.set),
    "forks": lambda case: any(step.forks for step in case.session.steps),
    "frees": lambda case: any(step.free for step in case.session.steps),
    "rejects drafts": lambda case: any(t.accepted < t.drafts for step in case.session.steps for t in step.turns),
}


def classes_of(case: Case) -> Iterator[str]:
    """The classes that a case is in, a few words each."""
    for part, names in OF_PARTS.items():
        for name in names:
            yield f"{part}.{name} {getattr(getattr(case, part), name)}"
    for part, names in GAPS.items():
        for name in names:
            yield f"{part}.{name} {_gap_class(getattr(getattr(case, part), name))}"
    for name, size in SIZES.items():
        yield f"{name} {_size_class(size(case))}"
    for name, relation in RELATIONS.items():
        yield f"{name}: {'yes' if relation(case) else 'no'}"


def _gap_class(gap: int) -> str:
    if gap == 0:
        return "none"
    return "aligned" if gap % TILE == 0 else "unaligned"


def _size_class(size: int) -> str:
    """None, one; else between which powers of two, and whether it is one."""
    if size < 2:
        return str(size)
    low = 1 << size.bit_length() - 1
    return str(size) if size in (low, 3) else f"{low + 1} to {2 * low - 1}"
