"""What the callers of kernels keep to in every engine, as clauses of a contract."""

from collections.abc import Callable, Collection

from indexfuzz.core.case import Case
from indexfuzz.core.contract import Clause
from indexfuzz.core.session import Session, follow
from indexfuzz.core.stage_names import STAGE_NAMES, STATEFUL

_STRIDED = {
    "k_fp8": ("gather", "prefill_logits"),
    "q_fp8": ("prefill_logits", "paged_logits"),
    "q_weights": ("prefill_logits", "paged_logits"),
    "logits": ("prefill_logits", "paged_logits", "topk"),
    "angles": ("rope",),
    "q_head": ("rope", "q_quant"),
    "q_fp8_head": ("prefill_logits", "paged_logits"),
    "weights_head": ("q_quant",),
    "q_weights_head": ("prefill_logits", "paged_logits"),
    "lens": ("paged_logits",),
}
"""Tensors whose rows may be strided -> the stages that take them."""

_ROWS = ("k_fp8", "q_fp8", "q_weights", "logits")
_FAR = {name: stages for name, stages in _STRIDED.items() if name in _ROWS} | {
    "q": ("rope", "q_quant"),
    "k": ("rope", "k_quant_cache"),
    "weights": ("q_quant",),
    "table": ("gather", "paged_logits"),
}
"""Tensors whose rows may lie far apart -> the stages that take them."""


def as_callers_do(place: str, *, strided: Collection[str] = (), far: Collection[str] = ()) -> tuple[Clause, ...]:
    """What every engine's callers, found at `place`, keep to: their kernels promise nothing else unless they say so.

    Left out is that tensors are dense which `strided` names, and that rows are near each other of those in `far`: a
    wrapper says so that reads the strides of its arguments and hands them on, in 64 bits where rows may be far.
    """

    def is_dense(name: str) -> Callable[[Case], bool]:
        return lambda case: not getattr(case.memory, f"{name}_pad")

    def is_near(name: str) -> Callable[[Case], bool]:
        return lambda case: case.memory.far != name

    return (
        *(
            Clause(stages, is_dense(name), f"{name} is dense", place)
            for name, stages in _STRIDED.items()
            if name not in strided
        ),
        *(
            Clause(stages, is_near(name), f"the rows of {name} are not 2^31 elements apart", place)
            for name, stages in _FAR.items()
            if name not in far
        ),
        step_is_near(STATEFUL, place),
        Clause(("paged_logits",), lambda case: case.memory.lens_step == 1, "context_lens is dense", place),
        Clause(
            ("rope", "q_quant", "k_quant_cache"),
            lambda case: not case.memory.fused,
            "q and k are no views of one",
            place,
        ),
        Clause(STAGE_NAMES, lambda case: not case.memory.shift, "tensors start at multiples of 16 bytes", place),
        Clause(
            ("gather", "paged_logits"),
            lambda case: not case.memory.missing_pages,
            "a block table has every page of a context",
            place,
        ),
        Clause(("gather",), lambda case: not case.batch.gather_holes, "no padding lies between gathered keys", place),
        Clause(
            ("gather",),
            lambda case: not case.batch.gather_pad or case.batch.pad_seq == "minus-one",
            "gathered padding belongs to sequence -1",
            place,
        ),
        Clause(("gather",), lambda case: not case.batch.gather_cut, "there is room for all gathered keys", place),
        Clause(
            ("prefill_logits",),
            lambda case: not (case.batch.long_windows or case.batch.gather_cut),
            "windows end at the last key",
            place,
        ),
    )


def step_is_near(stages: tuple[str, ...], place: str) -> Clause:
    """What the rows of a step are in every engine: near each other, however large the pools are that they name."""
    return Clause(
        stages,
        lambda case: case.memory.far not in ("k", "weights", "table"),
        "the rows of tokens and of tables are not 2^31 elements apart",
        place,
    )


def drafts_follow_one_token(session: Session) -> bool:
    """Whether every turn that drafts appends one token before, of a request that has tokens already."""
    rows = (row for step in follow(session) for row in step)
    return all(not row.turn.drafts or (row.turn.new == 1 and row.start > 0) for row in rows)
