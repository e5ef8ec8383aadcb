"""Reductions: ways to make a case smaller, one trick each.

A reduction yields candidates, each simpler than the case it is given; whether a candidate still shows the bug is not
its concern. Candidates that contradict themselves are left out.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from indexfuzz.core.case import Case, CaseError, Regime
from indexfuzz.samples.regimes import TENSORS
from indexfuzz.samples.step import materialise

Reduction = Callable[[Case], Iterator[Case]]

SIMPLE_REGIMES: tuple[Regime, ...] = ("zeros", "exact", "normal")
DEFAULT = Case()
SIZES = {
    "memory": (),
    "rope": (),
    "cache": ("block_size", "layout"),
    "batch": ("decode", "prefill", "next_n", "lens", "max_model_len"),
}
"""Parts of a case, and what of them other reductions make smaller."""

RESEEDS = 6
SPARSE = 256
"""Elements up to which a tensor is spelled out to be thinned, element by element."""


def _try(case: Case, **parts: dict[str, object]) -> Iterator[Case]:
    try:
        candidate = case.replace(**parts)
    except CaseError:
        return
    if candidate != case:
        yield candidate


def _field(part: str, name: str, value: object) -> dict[str, dict[str, object]]:
    return {part: {name: value}}


def _with_either_pool(case: Case, **parts: dict[str, object]) -> Iterator[Case]:
    """Fewer tokens in a pool of fewer pages, and in a pool of as many: the pages that are left keep their numbers."""
    for candidate in _try(case, **parts):
        yield candidate
        freed = case.num_blocks - candidate.num_blocks
        if freed > 0:
            yield from _try(candidate, cache={"spare_blocks": candidate.cache.spare_blocks + freed})


def _without_runs(items: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """The sequence without runs of its items: everything, halves, quarters, down to single items."""
    size = len(items)
    while size:
        for start in range(0, len(items), size):
            yield (*items[:start], *items[start + size :])
        size //= 2


def drop_requests(case: Case) -> Iterator[Case]:
    """Leave out decode and prefill requests."""
    for decode in _without_runs(case.batch.decode):
        yield from _with_either_pool(case, batch={"decode": decode})
    for prefill in _without_runs([p.model_dump() for p in case.batch.prefill]):
        yield from _with_either_pool(case, batch={"prefill": prefill})


def fewer_rows(case: Case) -> Iterator[Case]:
    """Fewer rows for each decode request. Ragged lengths are drawn anew then, so a few seeds are tried."""
    for next_n in range(1, case.batch.next_n):
        for lens in dict.fromkeys(("1d", "2d", case.batch.lens)):
            for seed in (case.values.seed, *(range(RESEEDS) if lens == "ragged" else ())):
                yield from _try(case, batch={"next_n": next_n, "lens": lens}, values={"seed": seed})


def _smaller(value: int, least: int) -> Iterator[int]:
    """Numbers below a value: the least, then ever closer to it."""
    step = value - least
    while step > 0:
        yield value - step
        step //= 2


def shorten_requests(case: Case) -> Iterator[Case]:
    """Shorter contexts, fewer new tokens."""
    batch = case.batch
    for i, length in enumerate(batch.decode):
        for shorter in _smaller(length, 0):
            yield from _with_either_pool(case, batch={"decode": (*batch.decode[:i], shorter, *batch.decode[i + 1 :])})
    prefill = [p.model_dump() for p in batch.prefill]
    for i, request in enumerate(batch.prefill):
        pairs = [(request.length - cut, request.new - cut) for cut in _smaller(request.new, 0)]
        pairs += [(length, min(request.new, length)) for length in _smaller(request.length, 0)]
        pairs += [(request.length, new) for new in _smaller(request.new, 0)]
        for length, new in pairs:
            if 0 <= new <= length:
                changed = [*prefill[:i], {"length": length, "new": new}, *prefill[i + 1 :]]
                yield from _with_either_pool(case, batch={"prefill": tuple(changed)})


def shrink_model(case: Case) -> Iterator[Case]:
    """Fewer heads, fewer dims, a smaller top-k."""
    model = case.model
    for heads in (1, 2, 4, 8, 16, 32, 64):
        if heads < model.num_heads:
            yield from _try(case, model={"num_heads": heads})
    for dim in (16, 32, 64):
        if dim < model.head_dim:
            group = dim if model.quant_group == model.head_dim else min(model.quant_group, dim)
            rope_dim = min(model.rope_dim, dim)
            yield from _try(case, model={"head_dim": dim, "quant_group": group, "rope_dim": rope_dim})
    for rope_dim in (2, 4, 8, 16, 32):
        if rope_dim < model.rope_dim:
            yield from _try(case, model={"rope_dim": rope_dim})
    for topk in _smaller(model.index_topk, 1):
        yield from _try(case, model={"index_topk": topk})


def shrink_numbers(case: Case) -> Iterator[Case]:
    """Smaller pages, pads and limits."""
    for block_size in (1, 2, 8, 16, 32, 64):
        if block_size < case.cache.block_size:
            yield from _try(case, cache={"block_size": block_size})
    for part, name, least in (
        ("batch", "next_n", 1),
        ("batch", "pad_tokens", 0),
        ("batch", "gather_pad", 0),
        ("batch", "max_model_len", 1),
        ("cache", "spare_blocks", 0),
        ("memory", "k_pad", 0),
        ("memory", "q_pad", 0),
        ("memory", "weights_pad", 0),
        ("memory", "table_pad", 0),
        ("memory", "table_extra", 0),
        ("memory", "k_fp8_pad", 0),
        ("memory", "q_fp8_pad", 0),
        ("memory", "q_weights_pad", 0),
        ("memory", "logits_pad", 0),
        ("memory", "angles_pad", 0),
        ("memory", "missing_pages", 0),
        ("memory", "q_head_pad", 0),
        ("memory", "q_fp8_head_pad", 0),
        ("memory", "lens_pad", 0),
        ("memory", "lens_step", 1),
        ("memory", "shift", 0),
        ("batch", "gather_holes", 0),
    ):
        for value in _smaller(getattr(getattr(case, part), name), least):
            yield from _try(case, **_field(part, name, value))
    for page_pad in (0, 4, 16, 1 << 30, 1 << 31):
        if page_pad < case.cache.page_pad:
            yield from _try(case, cache={"page_pad": page_pad})


def use_defaults(case: Case) -> Iterator[Case]:
    """Every choice back to the plain one."""
    for part, names in (
        ("model", ("scale_fmt", "fp8")),
        ("cache", ("layout", "pages", "shared_prefix")),
        ("batch", ("lens", "short_slots", "empty_windows", "long_windows", "pad_seq")),
        ("rope", ("style", "placement", "mode", "table")),
        ("memory", ("table_tail", "slots", "far", "shifted", "fused")),
        ("values", ("seed",)),
    ):
        for name in names:
            yield from _try(case, **_field(part, name, getattr(getattr(DEFAULT, part), name)))


def use_default_parts(case: Case) -> Iterator[Case]:
    """All that a part holds besides sizes back to the plain at once, which saves trying field by field."""
    for part, sizes in SIZES.items():
        plain = {name: value for name, value in getattr(DEFAULT, part) if name not in sizes}
        yield from _try(case, **{part: plain})
    yield from _try(case, batch={"max_model_len": max(case.batch.decode, default=1)})
    simplest = min(_rank(getattr(case.values, name)) for name in TENSORS)
    for regime in SIMPLE_REGIMES[: simplest + 1]:
        yield from _try(case, values=dict.fromkeys(TENSORS, regime) | {"set": {}})


def _rank(regime: Regime) -> int:
    """How simple the values of a regime are: 0 is the simplest."""
    return SIMPLE_REGIMES.index(regime) if regime in SIMPLE_REGIMES else len(SIMPLE_REGIMES)


def simplify_values(case: Case) -> Iterator[Case]:
    """Tensors of zeros, then of small integers."""
    for name in ("q", "k", "weights", "cache", "rope"):
        for regime in SIMPLE_REGIMES[: _rank(getattr(case.values, name))]:
            yield from _try(case, values={name: regime})


def spell_out(case: Case) -> Iterator[Case]:
    """Replace a drawn tensor by zeros and its own values as overrides, so that they can be thinned."""
    for name in ("q", "k", "weights"):
        if getattr(case.values, name) == "zeros" or case.batch.tokens == 0:
            continue
        tensor = materialise(case).tensors[name].float()
        if tensor.numel() <= SPARSE:
            nonzero = tensor.nonzero().tolist()
            entries = tuple((*index, float(tensor[tuple(index)]).hex()) for index in nonzero)
            yield from _try(case, values={name: "zeros", "set": dict(case.values.set) | {name: entries}})


def thin_overrides(case: Case) -> Iterator[Case]:
    """Fewer overrides, and rounder ones."""
    for name, entries in case.values.set.items():
        rest = {other: kept for other, kept in case.values.set.items() if other != name}
        for kept in _without_runs(entries):
            yield from _try(case, values={"set": rest | ({name: kept} if kept else {})})
        for i, (*index, value) in enumerate(entries):
            if value != (1.0).hex():
                rounder = (*entries[:i], (*index, (1.0).hex()), *entries[i + 1 :])
                yield from _try(case, values={"set": rest | {name: rounder}})


REDUCTIONS: tuple[Reduction, ...] = (
    drop_requests,
    fewer_rows,
    use_default_parts,
    shrink_model,
    shorten_requests,
    shrink_numbers,
    use_defaults,
    simplify_values,
    spell_out,
    thin_overrides,
)
