"""The requests of a case: how many, how long, and no more of them than a budget allows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache as memoise
from itertools import cycle, islice
from typing import Any, NamedTuple

from indexfuzz.core.case_parts import Batch, Prefill
from indexfuzz.generation.aims import LIMITS, Aim
from indexfuzz.generation.choices import Choices

BATCH: dict[str, Sequence[Any]] = {
    "kind": ("decode", "prefill", "mixed", "mixed") * 4 + ("padding",),
    "next_n": (1, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8),
    "decode": (1, 1, 2, 3, 4, 8, 31, 32, 33, 65),
    "prefill": (1, 1, 2, 2, 3, 5),
    "max_model_len": (0, 0, 40, 64, 256, 300, 1000),
    "above": (0, 1),
    "lens": ("1d", "2d", "ragged"),
    "pad_tokens": (0, 0, 0, 1, 2, 7),
    "short_slots": (False, True),
    "gather_pad": (0, 0, 1, 5),
    "pad_seq": ("minus-one", "batch", "huge", "first", "last"),
    "gather_holes": (0,) * 24 + tuple(range(1, 9)),
    "empty_windows": (False, False, False, True),
    "long_windows": (False,) * 7 + (True,),
    "aimed": ("decode", "prefill"),
    "are_long": (False, False, False, True),
}
ANY = {"decode": 128, "prefill": 128, "pad_tokens": 64, "gather_pad": 64}
"""Numbers that are now and then any from 1 to these."""

MOST_ROOM = 8192
"""Columns of the paged logits beyond the longest request."""

ANY_OF = 4
"""Of so many numbers one is any of its range, and the others are from a list."""

LENGTHS = (0, 1, 2, 3, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 240, 255, 256, 257)
NEW_TOKENS = (0, 1, 2, 3, 15, 16, 17, 33, 64)
NEW = (NEW_TOKENS,) * (ANY_OF - 1) + (range(512),)
LENGTHS_PER_BATCH, PREFILLS_PER_BATCH = 5, 8
"""Decode lengths, and prefill requests, that one sample draws; a larger batch repeats them."""

MAX_PAD_TOKENS = 4096
MANY_SCORES = 5 << 18
"""Rows times all keys, of many decode requests as well: some relations score every row against every request's keys."""

DECODE, PREFILL = frozenset({"decode", "decode_rows", "max_model_len"}), frozenset({"keys", "prefill_rows"})
"""Sizes that only one kind of request has."""


@dataclass(frozen=True)
class Budget:
    """How much work one sample may be."""

    scores: int = 1 << 18
    """Products q . k of one head, summed over the rows of both logits stages; also the elements of paged logits."""
    activations: int = 1 << 17
    """Elements of q. A single request may exceed it."""
    length: int = 300
    """Longest context, but for one that is aimed at."""
    cached: int = 1 << 20
    """Bytes of all pages of the cache. Four pages may exceed it."""


class Shape(NamedTuple):
    """What of a model and its cache decides how much work a request is."""

    num_heads: int
    head_dim: int
    block_size: int


def draw_batch(choices: Choices, shape: Shape, budget: Budget, aim: Aim) -> Batch:
    """Requests whose work stays within the budget: each one takes its share of what is left."""
    picked = choices.of_each(BATCH)
    for name, most in ANY.items():
        picked[name] = choices.of((picked[name],) * (ANY_OF - 1) + (choices.between(1, most),))
    kind, above, next_n, aimed = (picked.pop("kind"), picked.pop("above"), picked["next_n"], picked.pop("aimed"))
    room = choices.of((above,) * (ANY_OF - 1) + (choices.between(1, MOST_ROOM),))
    only = "decode" if aim.size in DECODE else "prefill" if aim.size in PREFILL else aimed
    is_context = aim.size in ("context", "pages")
    if aim.size in DECODE | PREFILL or is_context:
        kind = "mixed" if kind not in (only, "mixed") else kind
    page = shape.block_size * (shape.head_dim + 4)
    scores, tokens = budget.scores // shape.num_heads, budget.activations // (shape.num_heads * shape.head_dim)
    pages = max(budget.cached // page, 4)
    longest = min(budget.length, budget.cached // (shape.head_dim + 4))
    context = aim.value if aim.size == "context" else aim.value * shape.block_size - above
    context = min(context, pages * shape.block_size, scores, LIMITS["context"]) if is_context else 0
    if context and aimed == "decode":
        next_n = picked["next_n"] = min(next_n, scores // context)
    longest = max(longest, context) if picked.pop("are_long") else longest
    lengths = _lengths(longest, next_n, shape.block_size)

    count = aim.of("decode", picked["decode"])
    count = -(-aim.value // next_n) if aim.size == "decode_rows" else count
    is_counted = aim.size in ("decode", "decode_rows")
    fitting = min(tokens // next_n, pages) if is_counted else min(max(tokens // (2 * next_n), 1), pages // 2)
    count = 0 if kind in ("prefill", "padding") else min(count, max(fitting, 1))
    columns = max(context if aimed == "decode" else 0, aim.of("max_model_len", 0))
    count = min(count, max(scores // (columns * next_n), 1)) if columns else count
    some = [choices.of_one(lengths) for _ in range(LENGTHS_PER_BATCH)]
    roomy = max(pages // max(count, 1), 1) * shape.block_size
    if is_counted:
        roomy = min(roomy, MANY_SCORES // (count * count * next_n))
    decode: list[int] = []
    for i in range(count):
        wanted = context if context and aimed == "decode" and not i else min(some[i % len(some)], roomy)
        length = min(wanted, scores // next_n)
        scores -= length * next_n
        decode.append(length)
    tokens = max(tokens - len(decode) * next_n, 1)

    count = 0 if kind in ("decode", "padding") else min(picked["prefill"], max(pages - len(decode), 1))
    requested = _requests(choices, lengths, max(count, 1), pages, shape.block_size)
    beside = picked["gather_pad"] + sum(max(each) for each in requested[1:])
    requested[0] = _first(aim, context if aimed == "prefill" else 0, *requested[0], beside)
    tokens = max(min(tokens, MANY_SCORES // max(sum(max(each) for each in requested[:count]), 1)), 1)
    prefill: list[Prefill] = []
    scores = MANY_SCORES // shape.num_heads if aim.size == "prefill_rows" else scores
    for new, length in requested[:count]:
        request = _prefill(new, length, scores, tokens)
        scores -= request.length * request.new
        tokens -= request.new
        prefill.append(request)
    owned = len(decode) * next_n + sum(p.new for p in prefill)
    picked["pad_tokens"] = _padding(aim, shape, owned, min(picked["pad_tokens"], max(tokens, 1)))
    columns = aim.of("max_model_len", picked["max_model_len"])
    return Batch(
        **picked
        | {
            "decode": tuple(decode),
            "prefill": tuple(prefill),
            "max_model_len": _columns(decode, next_n, columns, room, budget.scores),
            "short_slots": picked["short_slots"] and picked["pad_tokens"] > 0,
        }
    )


@memoise
def _lengths(longest: int, next_n: int, block_size: int) -> tuple[Sequence[int], ...]:
    """Context lengths: boundaries of every kind two times out of three, and often less than one step's next_n."""
    page_edges = [block_size * pages + d for pages in (1, 2, 3) for d in (-1, 0, 1)]
    edges = dict.fromkeys((*LENGTHS, next_n - 1, next_n, next_n + 1, *page_edges, longest))
    bounded = [edge for edge in edges if 0 <= edge <= longest]
    return (bounded,) * 4 + (range(longest + 1), range(min(next_n, longest) + 1))


def _requests(
    choices: Choices, lengths: tuple[Sequence[int], ...], count: int, pages: int, block_size: int
) -> list[tuple[int, int]]:
    """New tokens and length of each of so many prefill requests, for which there are pages."""
    some = [(choices.of_one(NEW), choices.of_one(lengths)) for _ in range(PREFILLS_PER_BATCH)]
    roomy = max(min(pages * block_size, LIMITS["keys"] // 2) // count, 1)
    return [(min(new, roomy), min(length, roomy)) for new, length in islice(cycle(some), count)]


def _columns(decode: Sequence[int], next_n: int, wanted: int, room: int, scores: int) -> int:
    """Columns of the paged logits: what is wanted or else room beyond the longest request, as far as affordable."""
    longest, rows = max(decode, default=0), len(decode) * next_n
    most = scores // max(rows, 1)
    affordable = wanted if wanted <= most or rows <= 1 else 0
    return max(1, longest + min(room, max(most - longest, 1)), affordable)


def _first(aim: Aim, context: int, new: int, length: int, beside: int) -> tuple[int, int]:
    """New tokens and length of the first prefill request, where something about it, or all with it, is aimed at."""
    if context:
        return min(new, context), context
    if aim.size == "keys":
        length = max(aim.value - beside, 1)
        return min(new, length), length
    return (aim.value, length) if aim.size == "prefill_rows" else (new, length)


def _prefill(new: int, length: int, scores: int, tokens: int) -> Prefill:
    """A request of about this size that takes no more than what is left."""
    new = min(new, tokens)
    length = max(new, length)
    return Prefill(length=length, new=new if length * new <= scores else min(new, scores // length))


def _padding(aim: Aim, shape: Shape, tokens: int, drawn: int) -> int:
    """Padded tokens: what is missing to the number that is aimed at."""
    if aim.size not in ("tokens", "head_rows"):
        return drawn
    wanted = aim.value if aim.size == "tokens" else -(-aim.value // shape.num_heads)
    return min(max(wanted - tokens, 0), MAX_PAD_TOKENS)
