"""Reductions: ways to make a case smaller, one trick each.

A reduction proposes cases, each smaller than the one before, and goes on from those that are taken; whether a case
still shows the bug is not its concern.
"""

from collections.abc import Callable, Sequence
from typing import Any

from indexfuzz.core.case_parts import Prefill
from indexfuzz.samples.materialise import materialise
from indexfuzz.samples.regimes import TENSORS
from indexfuzz.triage.descent import leave_out, lower
from indexfuzz.triage.order import DEFAULT, PLAIN, SIMPLE_REGIMES, rank
from indexfuzz.triage.session_reductions import SESSION_REDUCTIONS
from indexfuzz.triage.smallest import Request, Smallest

RESEEDS = 6
SPARSE = 256
"""Elements up to which a tensor is spelled out to be thinned, element by element."""

Reduction = Callable[[Smallest], None]


def drop_requests(smallest: Smallest, *, keep_pool: bool = False) -> None:
    """Leave out requests."""
    leave_out(smallest.requests, lambda rest: smallest.take_requests(rest, keep_pool=keep_pool))


def join_prefill(smallest: Smallest) -> None:
    """One prefill request that is as long as all of them."""
    prefill = smallest.case.batch.prefill
    if len(prefill) > 1:
        one = {"length": sum(p.length for p in prefill), "new": sum(p.new for p in prefill)}
        smallest.take(batch={"prefill": (one,)})


def fewer_rows(smallest: Smallest) -> None:
    """Fewer rows for each decode request. Ragged lengths are drawn anew then, so a few seeds are tried."""
    case = smallest.case
    for next_n in range(1, case.batch.next_n):
        for lens in dict.fromkeys(("1d", "2d", case.batch.lens)):
            for seed in (case.values.seed, *(range(RESEEDS) if lens == "ragged" else ())):
                if smallest.take(batch={"next_n": next_n, "lens": lens}, values={"seed": seed}):
                    return


def _shortened(request: Request, length: int) -> Request:
    """The request with that length at most, and fewer new tokens where it is shorter than they are."""
    if isinstance(request, int):
        return min(request, length)
    return Prefill(length=min(request.length, length), new=min(request.new, length))


def _with_fewer_new(request: Request, new: int) -> Request:
    """The request with that many new tokens at most, after the same context."""
    if isinstance(request, int):
        return request
    cut = max(request.new - new, 0)
    return Prefill(length=request.length - cut, new=request.new - cut)


def _with_older(request: Request, new: int) -> Request:
    """The request with that many new tokens at most, and as long as before."""
    return request if isinstance(request, int) else Prefill(length=request.length, new=min(request.new, new))


def _new(request: Request) -> int:
    return 0 if isinstance(request, int) else request.new


def _length(request: Request) -> int:
    return request if isinstance(request, int) else request.length


Measure = Callable[[Request], int]
Cut = Callable[[Request, int], Request]
CUTS: tuple[tuple[Measure, Cut], ...] = (
    (_new, _with_fewer_new),
    (_length, _shortened),
    (_new, _with_older),
)
"""What of a request is made smaller, and how."""


def shorten_all_requests(smallest: Smallest) -> None:
    """Shorter contexts and fewer new tokens: a limit for all requests alike, then none for most."""
    for measure, cut in CUTS:
        requests = smallest.requests
        longest = max(map(measure, requests), default=0)

        def take(most: int, cut: Cut = cut) -> bool:
            return smallest.take_requests(cut(request, most) for request in smallest.requests)

        lower(longest, 0, take)
    requests = smallest.requests

    def empty_all_but(kept: Sequence[int]) -> bool:
        return smallest.take_requests(r if i in kept else _shortened(r, 0) for i, r in enumerate(requests))

    leave_out([i for i, request in enumerate(requests) if _length(request)], empty_all_but)


def shorten_requests(smallest: Smallest, *, keep_pool: bool = False) -> None:
    """Shorter contexts, fewer new tokens, one request after the other; those that were alike are alike stubborn."""
    for measure, cut in CUTS:
        stubborn = set[Request]()
        for i, request in enumerate(smallest.requests):
            if request in stubborn:
                continue

            def take(most: int, i: int = i, cut: Cut = cut) -> bool:
                now = smallest.requests
                return smallest.take_requests((*now[:i], cut(now[i], most), *now[i + 1 :]), keep_pool=keep_pool)

            if lower(measure(request), 0, take) == measure(request):
                stubborn.add(request)


def drop_requests_from_pool(smallest: Smallest) -> None:
    """Leave out requests, and let the pool be as large: the pages that are left keep their numbers."""
    drop_requests(smallest, keep_pool=True)


def shorten_requests_in_pool(smallest: Smallest) -> None:
    """Shorten requests, and let the pool be as large."""
    shorten_requests(smallest, keep_pool=True)


def shrink_model(smallest: Smallest) -> None:
    """Fewer heads, fewer dims, a smaller top-k."""
    model = smallest.case.model
    lower(model.num_heads, 1, lambda heads: smallest.take(model={"num_heads": heads}))
    for dim in (16, 32, 64):
        group = max(dim // max(model.head_dim // model.quant_group, 1), 1)
        rope_dim = min(model.rope_dim, dim)
        if dim < model.head_dim and smallest.take(model={"head_dim": dim, "quant_group": group, "rope_dim": rope_dim}):
            break
    lower(smallest.case.model.rope_dim, 2, lambda dims: smallest.take(model={"rope_dim": dims}))
    lower(model.index_topk, 1, lambda topk: smallest.take(model={"index_topk": topk}))


def shrink_pages(smallest: Smallest) -> None:
    """Smaller pages and fewer spare ones, a lower limit of lengths."""
    size = smallest.case.cache.block_size
    any(smallest.take(cache={"block_size": less}) for less in (1, 2, 8, 16, 32, 64, 128, 256) if less < size)
    lower(smallest.case.cache.spare_blocks, 0, lambda spare: smallest.take(cache={"spare_blocks": spare}))
    longest = max((1, *smallest.case.batch.decode))
    lower(smallest.case.batch.max_model_len, longest, lambda most: smallest.take(batch={"max_model_len": most}))


def use_defaults(smallest: Smallest) -> None:
    """Every plain field back to its default, as many at once as can be."""
    case = smallest.case

    def keep(fields: Sequence[tuple[str, str]]) -> bool:
        parts: dict[str, dict[str, Any]] = {}
        for part, name in PLAIN:
            source = case if (part, name) in fields else DEFAULT
            parts.setdefault(part, {})[name] = getattr(getattr(source, part), name)
        return smallest.take(**parts)

    leave_out([(p, n) for p, n in PLAIN if getattr(getattr(case, p), n) != getattr(getattr(DEFAULT, p), n)], keep)


def shrink_numbers(smallest: Smallest) -> None:
    """Smaller pads and other plain numbers."""
    for part, name in PLAIN:
        value, least = (getattr(getattr(case, part), name) for case in (smallest.case, DEFAULT))
        if isinstance(value, int) and not isinstance(value, bool) and value > least:

            def take(less: int, part: str = part, name: str = name) -> bool:
                return smallest.take(**{part: {name: less}})

            lower(value, least, take)


def simplify_values(smallest: Smallest) -> None:
    """Tensors of zeros, then of small integers: all of them, then one after the other; and the first seed."""
    smallest.take(values={"seed": 0})
    for names in (tuple(TENSORS), *((name,) for name in TENSORS)):
        for level, regime in enumerate(SIMPLE_REGIMES):
            values = smallest.case.values
            if smallest.take(values={name: regime for name in names if rank(getattr(values, name)) > level}):
                break


def spell_out(smallest: Smallest) -> None:
    """Replace a drawn tensor by zeros and its own values as overrides, so that they can be thinned."""
    for name in ("q", "k", "weights"):
        case = smallest.case
        if getattr(case.values, name) == "zeros" or case.batch.tokens == 0:
            continue
        tensor = materialise(case).tensors[name].float()
        if tensor.numel() <= SPARSE:
            nonzero = tensor.nonzero().tolist()
            entries = tuple((*index, float(tensor[tuple(index)]).hex()) for index in nonzero)
            smallest.take(values={name: "zeros", "set": dict(case.values.set) | {name: entries}})


def thin_overrides(smallest: Smallest) -> None:
    """Fewer overrides, and rounder ones."""
    for name in smallest.case.values.set:
        _thin(smallest, name)


def _thin(smallest: Smallest, name: str) -> None:
    def take(kept: Sequence[tuple[int | str, ...]]) -> bool:
        overrides = {**smallest.case.values.set, name: tuple(kept)}
        return smallest.take(values={"set": {of: entries for of, entries in overrides.items() if entries}})

    entries = leave_out(smallest.case.values.set[name], take)

    def take_uneven(uneven: Sequence[int]) -> bool:
        return take([e if i in uneven else (*e[:-1], (1.0).hex()) for i, e in enumerate(entries)])

    leave_out([i for i, (*_, value) in enumerate(entries) if value != (1.0).hex()], take_uneven)


REDUCTIONS: tuple[Reduction, ...] = (
    drop_requests,
    join_prefill,
    fewer_rows,
    use_defaults,
    shorten_all_requests,
    shrink_model,
    shorten_requests,
    shrink_pages,
    shrink_numbers,
    simplify_values,
    spell_out,
    thin_overrides,
    drop_requests_from_pool,
    shorten_requests_in_pool,
)


def reduce_until_stuck(smallest: Smallest) -> None:
    """Go round all reductions until none of them makes the case smaller; each goes on where it succeeds."""
    reductions = (*SESSION_REDUCTIONS, *REDUCTIONS) if smallest.case.session.steps else REDUCTIONS
    stuck, at = 0, 0
    while stuck < len(reductions):
        before = smallest.case
        reductions[at](smallest)
        stuck = 0 if smallest.case is not before else stuck + 1
        at = (at + 1) % len(reductions)
