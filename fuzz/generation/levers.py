"""Levers: the integers of a case that can be moved one at a time, and how to bring a measure to a value with them.

Nobody writes down how a measure depends on a field: it is tried, on the case alone, which costs microseconds.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from indexfuzz.core.case import Case
from indexfuzz.core.case_parts import QUARTERS, TILE
from indexfuzz.core.part import CaseError
from indexfuzz.generation.measures import CONTENTS, NUMBERS, SIZES, contents, measure, number_of, tensor_of, word_of

STEPS = (1, 2, 4, 16)
"""Steps by which a lever is tried, the size of a page after them: some fields only take multiples, and what is rounded
up only moves by so many."""

LEAST = (0, 1)
"""Values that are tried at once: some things change only where there is none of another."""

PAGED = ("page_pad", "spare_blocks")
MODEL = ("num_heads", "index_topk", "rope_dim")
BATCH = (
    *("next_n", "max_model_len", "pad_tokens", "gather_pad", "gather_holes", "gather_cut", "slot_holes"),
    "select_holes",
)
MEMORY = (
    *("k_pad", "q_pad", "weights_pad", "table_pad", "table_extra", "k_fp8_pad", "q_fp8_pad", "q_weights_pad"),
    *("logits_pad", "angles_pad", "missing_pages", "q_head_pad", "q_fp8_head_pad", "lens_pad", "lens_step", "shift"),
    *("columns_pad", "weights_head_pad", "q_weights_head_pad"),
)

HEAD_DIMS = (32, 64, 128)
"""Those that all kernels take."""

WORDED = (
    *(("style", "rope", "style"), ("mode", "rope", "mode"), ("placement", "rope", "placement")),
    *(("scale_fmt", "model", "scale_fmt"), ("fp8", "model", "fp8")),
    *(("layout", "cache", "layout"), ("asked_layout", "cache", "layout")),
)
"""Measures that are words, and the part and the field of a case that has each."""

Parts = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Lever:
    """A number of a case: its value, and the fields that change with it."""

    name: str
    now: int
    fields: Callable[[int], Parts]

    def set(self, case: Case, value: int) -> Case | None:
        """The case with another value; None where no case has it."""
        if value < 0 and not word_of(value):
            return None
        try:
            return case.replace(**self.fields(value))
        except CaseError:
            return None


def levers(case: Case, *, is_pinned: bool = False) -> list[Lever]:
    """All levers of a case; without those of the model and the size of pages where these are pinned."""
    parts = (("batch", BATCH), ("memory", MEMORY), ("cache", PAGED), ("model", () if is_pinned else MODEL))
    plain = [_plain(case, part, name) for part, names in parts for name in names]
    shapes = [] if is_pinned else [*_shapes(case), *_words(case)]
    return [*plain, *_requests(case), *_inserted(case), *shapes]


def _plain(case: Case, part: str, name: str) -> Lever:
    return Lever(name, getattr(getattr(case, part), name), lambda value: {part: {name: value}})


def _words(case: Case) -> Iterator[Lever]:
    """Options that are words, as measures have them."""
    for measured, part, name in WORDED:
        now = number_of(getattr(getattr(case, part), name)) or 0
        yield Lever(measured, now, partial(_set_word, part, name))
    yield Lever("scales", number_of(case.cache.scales) or 0, lambda number: with_scales(case, word_of(number)))


def with_other_words(case: Case, among: Iterable[Lever], name: str) -> list[Case]:
    """The case with each other word of an option, by the lever of that name."""
    words = [lever.set(case, number) for lever in among if lever.name == name for number in NUMBERS]
    return [there for there in words if there is not None and there != case]


def _set_word(part: str, name: str, number: int) -> Parts:
    return {part: {name: word_of(number)}}


def with_scales(case: Case, scales: str) -> Parts:
    """The form of a key's scales, with what goes with it: a key in MXFP4 has one of each quarter of its dims."""
    model = case.model
    fmt = model.scale_fmt if scales == "fp32" else "ue8m0"
    groups = QUARTERS if scales == "mxfp4" else 1
    return {"cache": {"scales": scales}, "model": {"scale_fmt": fmt, "quant_group": model.head_dim // groups}}


def _shapes(case: Case) -> Iterator[Lever]:
    """Fields of the model and the cache that others go with."""
    model, cache = case.model, case.cache

    def dims(wanted: int) -> Parts:
        dim = _next(HEAD_DIMS, model.head_dim, wanted)
        group = dim * model.quant_group // model.head_dim
        return {"model": {"head_dim": dim, "quant_group": group, "rope_dim": min(model.rope_dim, dim)}}

    yield Lever("head_dim", model.head_dim, dims)
    yield Lever(
        "block_size",
        cache.block_size,
        lambda size: {"cache": {"block_size": size, "layout": "normal" if size % TILE else cache.layout}},
    )


def _next(known: Sequence[int], now: int, wanted: int) -> int:
    """The first of some numbers that is no less than what is wanted, or no more where that is less than now."""
    if wanted < now:
        return max((one for one in known if one <= wanted), default=min(known))
    return min((one for one in known if one >= wanted), default=max(known))


def _requests(case: Case) -> Iterator[Lever]:
    """How many requests there are, and how long the longest, the first, the last, the shortest and all of them are."""
    decode, prefill = case.batch.decode, [request.model_dump() for request in case.batch.prefill]
    if decode:
        yield Lever("decode", len(decode), lambda count: {"batch": {"decode": _repeat(decode, count)}})
        yield _extreme(case, "decode_context", max, min)
        yield _length(case, "first_decode", 0)
        yield _length(case, "last_decode", len(decode) - 1)
        yield _extreme(case, "shortest", min, max)
        yield _lengths(case)
    if case.lengths:
        yield _cut(case)
    if prefill:
        yield Lever("prefill", len(prefill), lambda count: {"batch": {"prefill": _repeat(prefill, count)}})
        yield _in_front(prefill)
        for name, place in (("first_prefill", 0), ("last_prefill", len(prefill) - 1)):
            yield _new(prefill, f"{name}_new", place)
            yield _context(prefill, name, place)


def _length(case: Case, name: str, place: int) -> Lever:
    """The length of a decode request, for which there is room."""
    decode, room = case.batch.decode, case.batch.max_model_len

    def fields(length: int) -> Parts:
        lengths = (*decode[:place], length, *decode[place + 1 :])
        return {"batch": {"decode": lengths, "max_model_len": max(room, length)}}

    return Lever(name, decode[place], fields)


def _extreme(case: Case, name: str, which: Callable[[Iterable[int]], int], other: Callable[[int, int], int]) -> Lever:
    """The length of the longest (max, min) or shortest (min, max) decode request, and of all that it would pass."""
    decode, room = case.batch.decode, case.batch.max_model_len
    place = decode.index(which(decode))

    def fields(length: int) -> Parts:
        lengths = tuple(length if i == place else other(each, length) for i, each in enumerate(decode))
        return {"batch": {"decode": lengths, "max_model_len": max(room, *lengths)}}

    return Lever(name, decode[place], fields)


def _cut(case: Case) -> Lever:
    """The length of the longest request of all, and of all that would be longer than it is then."""
    decode, prefill, room = case.batch.decode, case.batch.prefill, case.batch.max_model_len
    lengths = case.lengths
    longest = lengths.index(max(lengths))

    def fields(length: int) -> Parts:
        cut = tuple(length if i == longest else min(each, length) for i, each in enumerate(lengths))
        mine, others = cut[: len(decode)], cut[len(decode) :]
        requests = tuple({"length": to, "new": min(one.new, to)} for one, to in zip(prefill, others, strict=True))
        return {"batch": {"decode": mine, "prefill": requests, "max_model_len": max(room, *mine, 1)}}

    return Lever("context", lengths[longest], fields)


def _lengths(case: Case) -> Lever:
    """The length of every decode request, by that of the shortest: the others are longer by as much as they were."""
    decode, room = case.batch.decode, case.batch.max_model_len
    shortest = min(decode)

    def fields(length: int) -> Parts:
        lengths = tuple(each + length - shortest for each in decode)
        return {"batch": {"decode": lengths, "max_model_len": max(room, *lengths)}}

    return Lever("every_decode", shortest, fields)


def _in_front(prefill: list[dict[str, int]]) -> Lever:
    """The keys of prefill requests without new tokens that stand before all others: where the first window starts."""
    first = next((place for place, request in enumerate(prefill) if request["new"]), 0)
    idle, others = prefill[:first], prefill[first:]

    def fields(length: int) -> Parts:
        return {"batch": {"prefill": (*([{"length": length, "new": 0}] if length else ()), *others)}}

    return Lever("in_front", sum(request["length"] for request in idle), fields)


def _new(prefill: list[dict[str, int]], name: str, place: int) -> Lever:
    """The new tokens of a prefill request, which is as long as it takes."""
    length = prefill[place]["length"]
    return Lever(name, prefill[place]["new"], lambda new: _with(prefill, place, new, max(new, length)))


def _context(prefill: list[dict[str, int]], name: str, place: int) -> Lever:
    """The length of a prefill request, of which no more tokens are new."""
    new = prefill[place]["new"]
    return Lever(name, prefill[place]["length"], lambda length: _with(prefill, place, min(new, length), length))


def _with(prefill: list[dict[str, int]], place: int, new: int, length: int) -> Parts:
    changed = {"new": new, "length": length}
    return {"batch": {"prefill": (*prefill[:place], changed, *prefill[place + 1 :])}}


ROWS, SHORT = 8, 64
"""Rows of a decode request, at most, and a length that takes a page or two."""


def _inserted(case: Case) -> Iterator[Lever]:
    """Tokens that have a slot, thousands of them at little cost: in short decode requests of as many rows as may be."""
    beside, lengths = case.batch.prefill_rows, case.batch.decode or (ROWS,)
    short = [min(max(length, ROWS), SHORT) for length in lengths]

    def fields(wanted: int) -> Parts:
        count, rest = divmod(max(wanted - beside, 0), ROWS)
        decode = (*_repeat(short, count), *([rest] if rest else ()))
        return {"batch": {"decode": decode, "next_n": ROWS, "max_model_len": max(decode, default=1)}}

    yield Lever("inserted", SIZES["inserted"](case), fields)


MOST = 4096
"""Requests of a batch."""


def _repeat(items: Sequence[Any], count: int) -> tuple[Any, ...]:
    """So many items, those there are over and over again."""
    count = min(count, MOST)
    return tuple(items[place % len(items)] for place in range(count))


def movers(case: Case, name: str, *, is_pinned: bool = False) -> list[Lever]:
    """The levers of a case that may move a measure; of what a tensor holds, those that move anything of that tensor."""
    names = _movers()[name] if name not in CONTENTS else _movers_of_contents()[tensor_of(name)]
    return [lever for lever in levers(case, is_pinned=is_pinned) if lever.name in names]


def know_movers() -> None:
    """Find out now what `movers` needs to know, rather than in each copy of this process."""
    _movers()
    _movers_of_contents()


@cache
def _movers() -> dict[str, frozenset[str]]:
    """By measure, the levers that move it in one of some cases."""
    return _seen_to_move(_KINDS, STEPS, measure)


@cache
def _movers_of_contents() -> dict[str, frozenset[str]]:
    """By tensor of integers, those that move anything that it holds."""
    found: dict[str, set[str]] = {}
    for name, names in _seen_to_move(tables(), STEPS[:1], contents).items():
        found.setdefault(tensor_of(name), set()).update(names)
    return {tensor: frozenset(names) for tensor, names in found.items()}


def _seen_to_move(
    cases: Iterable[Case], steps: Sequence[int], of: Callable[[Case], Mapping[str, int]]
) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for case in cases:
        now = of(case)
        for lever in levers(case):
            for value in _tried(lever, case, steps):
                moved = lever.set(case, value)
                for name, there in of(moved).items() if moved else ():
                    found.setdefault(name, set()).update({lever.name} if there != now[name] else ())
    return {name: frozenset(levers) for name, levers in found.items()}


_KINDS = tuple(
    Case().replace(
        batch={"decode": decode, "prefill": prefill, "max_model_len": 64, "next_n": 2, "pad_tokens": 1, **short},
        cache={"block_size": 16},
    )
    for decode, prefill in (((5, 30), ()), ((), ({"length": 40, "new": 7},)), ((9, 2), ({"length": 21, "new": 2},) * 2))
    for short in ({"short_slots": True}, {})
)
"""Cases with all that levers are about, in which every measure can be seen to move."""


def tables() -> tuple[Case, ...]:
    """Cases in which numbers move all that stands first, last, least and most in tensors of integers."""
    return tuple(_KINDS[-1].replace(**parts) for parts in _TABLES)


_TABLES: tuple[Parts, ...] = (
    {
        "cache": {"pages": "highest"},
        "batch": {"pad_tokens": 0, "gather_pad": 1, "pad_seq": "batch"},
        "memory": {"table_extra": 1, "table_tail": "num-blocks"},
    },
    {
        "cache": {"pages": "permuted"},
        "batch": {"gather_holes": 3, "slot_holes": 3, "lens": "2d"},
        "memory": {"missing_pages": 7},
    },
)


def reach(case: Case, name: str, target: int, among: Sequence[Lever]) -> Case | None:
    """The case with a measure at a value, by the first lever that brings it there; None where none does.

    A field that only takes some numbers is brought to the next one. Where one lever is not enough, as for rows that are
    no multiple of next_n, another one is set to 1 before.
    """
    if measure(case)[name] == target:
        return case
    for lever in among:
        there = lever.set(case, target) if lever.name == name else None
        if there is not None and (name == "head_dim" or measure(there)[name] == target):
            return there
    found, moving = _reach_by_one(case, name, target, among)
    for lever in moving if found is None else ():
        eased = lever.set(case, 1)
        if eased is not None and eased != case:
            again = {other.name: other for other in levers(eased)}
            others = [again[other.name] for other in moving if other is not lever and other.name in again]
            found, _ = _reach_by_one(eased, name, target, others)
            if found is not None:
                break
    return found


def _tried(lever: Lever, case: Case, steps: Sequence[int]) -> tuple[int, ...]:
    """Values at which a lever of a case is tried: some steps and a page from where it is, and the least; or words."""
    if word_of(lever.now):
        return NUMBERS
    return (*(lever.now + step for step in (*steps, case.cache.block_size)), *LEAST)


def _reach_by_one(case: Case, name: str, target: int, among: Sequence[Lever]) -> tuple[Case | None, list[Lever]]:
    """The case with a measure at a value, if one lever brings it there, and the levers that were seen to move it."""
    moving = list[Lever]()

    def of(case: Case) -> int:
        return SIZES[name](case) if name in SIZES else measure(case)[name]

    now = of(case)
    diff = target - now
    for lever in among:
        for value in _tried(lever, case, STEPS):
            tried, step = lever.set(case, value), value - lever.now
            moved = of(tried) - now if tried else 0
            if moved == diff:
                return tried, [*moving, lever]
            if moved:
                moving.append(lever)
                there = lever.set(case, lever.now + diff * step // moved) if not diff * step % moved else None
                if there is not None and of(there) == target:
                    return there, moving
                break
    return None, moving
