"""Steering: some of the cases of a stream take cases that came close to a goal further, or vary what was rare."""

from collections.abc import Iterator, Sequence

from indexfuzz.core.case import Case
from indexfuzz.core.part import CaseError
from indexfuzz.generation.choices import Choices
from indexfuzz.generation.goals import Goal
from indexfuzz.generation.levers import levers, reach

OFFSETS = (0, 0, 0, 0, -1, 1)

SPLICED = (1, 2, 4, 8, 16, 24)
"""Fields that a case takes from another one: of few, what was rare stays; of many, all else is as new as may be."""

MOST_PRODUCTS = 5_000_000
"""Products q . k of all rows with all keys, heads counted, that a steered case may have."""
MOST_ACTIVATIONS, MOST_CACHED, MOST_LOGITS = 1 << 19, 1 << 23, 1 << 19
"""Elements of q, bytes of all pages, and elements of logits."""

PINNED = frozenset({"model", "rope"})
"""Parts that a preset says."""

PARTS = ("model", "cache", "batch", "rope", "memory", "values")
TOGETHER = (
    ("model", ("head_dim", "quant_group", "rope_dim")),
    ("cache", ("block_size", "layout", "page_pad")),
    ("batch", ("decode", "max_model_len")),
)
"""Fields that only make sense with each other."""

DECISIONS = 72
"""Bytes that decide how a case is steered."""


def steer(fresh: Case, goals: Sequence[Goal], choices: Choices, *, is_pinned: bool = False) -> Case:
    """A case on the way to one of the goals; the fresh one where that would be none, or too much work.

    One of the aims is brought about, or some number moved by the gap, and every other time a field is taken from the
    fresh case; where there is neither aim nor gap, a few fields are. With `is_pinned`, the model, its RoPE and the size
    of its pages stay.
    """
    goal = goals[choices.number(2) % len(goals)]
    moved = _move(goal, choices, is_pinned=is_pinned)
    count, is_mixed = choices.of(SPLICED), choices.of((True, False))
    if moved is not None:
        count = 1 if is_mixed else 0
    found = splice(moved or goal.case, fresh, count, choices, is_pinned=is_pinned)
    lighter = lighten(found, is_pinned=is_pinned) if found is not None else ()
    return next(filter(is_affordable, lighter), fresh)


def _move(goal: Goal, choices: Choices, *, is_pinned: bool) -> Case | None:
    """The case of a goal with an aim brought about, or one number moved by the gap; None where that cannot be."""
    among = levers(goal.case, is_pinned=is_pinned)
    aim, offset = choices.of(goal.aims or (("", 0),)), choices.of(OFFSETS)
    start, by = choices.number(1) % len(among), choices.of((goal.gap, goal.gap, -goal.gap, offset))
    if choices.of((False,) * 5 + (True,)) or not goal.aims:
        return among[start].set(goal.case, among[start].now + by) if goal.gap else None
    moved = reach(goal.case, aim[0], aim[1] + offset, among[start:] + among[:start])
    return moved if moved != goal.case else None


def splice(case: Case, other: Case, count: int, choices: Choices, *, is_pinned: bool = False) -> Case | None:
    """A case with so many fields of another one, out of those that differ; None where they contradict each other."""
    differing = [
        (part, names)
        for part, names in _fields(case)
        if any(getattr(getattr(case, part), name) != getattr(getattr(other, part), name) for name in names)
        and not (is_pinned and (part in PINNED or "block_size" in names))
    ]
    parts: dict[str, dict[str, object]] = {}
    for _ in range(min(count, len(differing))):
        part, names = differing[choices.number(2) % len(differing)]
        parts.setdefault(part, {}).update({name: getattr(getattr(other, part), name) for name in names})
    try:
        return case.replace(**parts)
    except CaseError:
        return None


def _fields(case: Case) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every field of every part, those together that only make sense with each other."""
    yield from TOGETHER
    apart = {(part, name) for part, names in TOGETHER for name in names}
    for part in PARTS:
        for name in type(getattr(case, part)).model_fields:
            if (part, name) not in apart and name not in ("rng", "set"):
                yield part, (name,)


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


def is_affordable(case: Case) -> bool:
    """Whether a case takes no more work than the largest that are drawn."""
    batch, model = case.batch, case.model
    rows = batch.decode_rows + batch.prefill_rows
    return (
        rows * sum(case.lengths) * model.num_heads <= MOST_PRODUCTS
        and batch.tokens * model.num_heads * model.head_dim <= MOST_ACTIVATIONS
        and case.num_blocks * case.cache.block_size * (model.head_dim + 4) <= MOST_CACHED
        and batch.decode_rows * batch.max_model_len <= MOST_LOGITS
        and batch.prefill_rows * batch.keys <= MOST_LOGITS
    )
