"""Hypothesis strategies for Case: which samples to try.

The ranges come from bugs that shipped in real indexer kernels. Sizes are drawn from boundaries (tile and page edges,
0, 1, next_n) far more often than from the middle. Most samples are small, because most bugs show in small ones and a
small one costs little; some are larger, so that nothing that fits a laptop is out of reach. Simple values come first
in every choice: Hypothesis shrinks towards them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache as memoise
from math import log2
from typing import Any, Literal, TypeVar

from hypothesis import strategies as st

from indexfuzz.core.case import Batch, Cache, Case, Far, Memory, Model, Prefill, Regime, Rope, Values
from indexfuzz.core.presets import Preset
from indexfuzz.samples.regimes import TENSORS

T = TypeVar("T")

FORMATS: tuple[Literal["e4m3fn", "e4m3fnuz"], ...] = ("e4m3fn", "e4m3fnuz")
HEAD_DIMS = (32, 64, 128)
ODD_HEAD_DIMS = (16, 100)
NUM_HEADS = (1, 2, 6, 8, 12, 16, 24, 32, 64, 128)
BLOCK_SIZES = (1, 16, 32, 48, 64, 128, 256, 640)
ODD_BLOCK_SIZES = (2, 8, 24)
LENGTHS = (0, 1, 2, 3, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 240, 255, 256, 257)
OFFSETS = (1 << 31, 1 << 32, 1 << 33)
"""Bytes at which 32 bits end: signed and unsigned byte offsets, and offsets that count scales of four bytes."""
FAR_PAGES = 8
"""Pages of requests in a cache that spans gigabytes: each touches memory of its own."""
WEIGHTED: dict[str, tuple[Regime, ...]] = {
    name: ("zeros", "exact", "normal", "normal", *regimes) for name, regimes in TENSORS.items()
}
EXACT_SHAPES = tuple((dim, heads) for dim in HEAD_DIMS for heads in NUM_HEADS if log2(dim * heads) % 2 == 0)
"""(head_dim, num_heads) whose factor D^-0.5 * H^-0.5 is a power of two: exact values stay exact through the logits."""

PADS = (0, 0, 0, 16, 24, 64)
RARE_PADS = (0, 0, 0, 0, 0, 1, 16, 24)
FAR_TENSORS: tuple[Far, ...] = ("q", "k", "weights", "table", "k_fp8", "q_fp8", "q_weights", "logits")
"""Tensors whose rows may lie so far apart that the last one starts beyond 2^31 elements."""
MEMORY: dict[str, Sequence[Any]] = {
    "k_pad": PADS,
    "q_pad": PADS,
    "weights_pad": (0, 0, 1, 8),
    "table_pad": (0, 0, 1, 5),
    "table_extra": (0, 0, 1, 3),
    "table_tail": ("minus-one", "num-blocks", "huge"),
    "slots": ("int64", "int32"),
    **dict.fromkeys(("k_fp8_pad", "q_fp8_pad", "q_weights_pad", "logits_pad", "angles_pad"), RARE_PADS),
    "missing_pages": (0,) * 9 + (1, 3),
    "far": ("none",) * 20 + FAR_TENSORS,
}
ROPE: dict[str, Sequence[Any]] = {
    "style": ("neox", "interleaved"),
    "placement": ("first", "last"),
    "mode": ("functional", "inplace"),
    "table": ("fp32", "bf16"),
}
BATCH: dict[str, Sequence[Any]] = {
    "kind": ("decode", "prefill", "mixed", "mixed"),
    "next_n": (1, 1, 2, 3, 4, 5, 6),
    "decode": (1, 1, 2, 3, 4, 8, 31, 32, 33, 65),
    "prefill": (1, 1, 2, 2, 3, 5),
    "max_model_len": (0, 0, 40, 64, 256, 300, 1000),
    "above": (0, 1),
    "lens": ("1d", "2d", "ragged"),
    "pad_tokens": (0, 0, 0, 1, 2, 7),
    "short_slots": (False, True),
    "gather_pad": (0, 0, 1, 5),
    "pad_seq": ("minus-one", "batch", "huge", "first", "last"),
    "gather_holes": (0,) * 9 + (1, 3),
    "empty_windows": (False, False, False, True),
    "long_windows": (False,) * 7 + (True,),
}
NEW_TOKENS = (0, 1, 2, 3, 15, 16, 17, 33, 64)
LENGTHS_PER_BATCH = 5
"""Decode lengths that one sample draws; a larger batch repeats them."""


@dataclass(frozen=True)
class Budget:
    """How much work one sample may be."""

    scores: int = 1 << 18
    """Products q . k of one head, summed over the rows of both logits stages; also the elements of paged logits."""
    activations: int = 1 << 17
    """Elements of q. A single request may exceed it."""
    length: int = 300
    """Longest context."""
    cached: int = 1 << 20
    """Bytes of all pages of the cache. Four pages may exceed it."""


LAPTOP = Budget()
SMALL = Budget(scores=1 << 14, activations=1 << 13, length=72, cached=1 << 17)
MEDIUM = Budget(scores=1 << 16, activations=1 << 15, length=150, cached=1 << 19)
MIXED = (SMALL,) * 11 + (MEDIUM,) * 4 + (LAPTOP,)


def cases(
    *,
    preset: Preset | None = None,
    values: tuple[Regime, ...] = (),
    formats: tuple[str, ...] = FORMATS,
    budget: Budget | None = None,
) -> st.SearchStrategy[Case]:
    """One whole indexer step.

    `preset` pins the model's shape, RoPE style and block sizes; `values` restricts the regimes, of every tensor that
    has one of them; `formats` are the FP8 formats that the device has; without a `budget`, each sample takes one of
    MIXED.
    """
    budgets = (budget,) if budget else MIXED
    sizes = preset.block_sizes if preset else BLOCK_SIZES * 3 + ODD_BLOCK_SIZES

    def build(decisions: bytes) -> Case:
        choices = _Choices(decisions)
        allowed, block_size = choices.of(budgets), choices.of(sizes)
        regimes = _values(choices, values)
        model = _model(choices, formats, regimes)
        model = preset.model if preset else model
        batch = _batch(choices, model, block_size, allowed)
        rope = choices.of_each(ROPE)
        if preset:
            rope |= {"style": preset.style, "placement": preset.placement}
        return Case(
            model=model,
            cache=_cache(choices, model, batch, block_size),
            batch=batch,
            rope=Rope(**rope),
            memory=Memory(**choices.of_each(MEMORY)),
            values=regimes,
        )

    return st.binary(min_size=DECISIONS, max_size=DECISIONS).map(build)


DECISIONS = 112
"""Bytes that decide a case."""


class _Choices:
    """Makes choices out of bytes; zeros choose the first of everything.

    Hypothesis draws all of a case's bytes at once: separate draws would cost more than everything that is done with
    them, would prefer small integers, and would be copied over each other to make samples that are hardly new. Bytes
    are even, and shrink one by one. Every choice is made in every case, so that bytes keep their meaning.
    """

    def __init__(self, decisions: bytes) -> None:
        self._left = decisions

    def number(self, width: int) -> int:
        """A number of `width` bytes."""
        if len(self._left) < width:
            raise IndexError("a case takes more bytes than DECISIONS")
        taken, self._left = self._left[:width], self._left[width:]
        return int.from_bytes(taken)

    def of(self, options: Sequence[T]) -> T:
        """One of at most 256 options."""
        return options[self.number(1) * len(options) >> 8]

    def of_each(self, lists: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """One of each list of options, by name."""
        return {name: self.of(options) for name, options in lists.items()}

    def of_one(self, lists: Sequence[Sequence[T]]) -> T:
        """One of the options of one of several lists, whatever their lengths."""
        options = self.of(lists)
        return options[self.number(2) * len(options) >> 16]


def _model(choices: _Choices, formats: tuple[str, ...], values: Values) -> Model:
    rarely = 40
    picked = choices.of_each(
        {
            "num_heads": NUM_HEADS,
            "head_dim": HEAD_DIMS * rarely + ODD_HEAD_DIMS,
            "rope_dim": (16, 32, 64, 128, 2, 24, 48),
            "scale_fmt": ("ue8m0", "fp32"),
            "fp8": [fp8 for fp8 in ("e4m3fn", *FORMATS) if fp8 in formats],
            "index_topk": (1, 2, 4, 16, 64, 2048),
            "groups": (1,) * rarely + (2,),
            "exact_shape": EXACT_SHAPES,
            "is_exact_shape": (True, True, True, False),
        }
    )
    is_wanted, exact_shape = picked.pop("is_exact_shape"), picked.pop("exact_shape")
    if is_wanted and {values.q, values.k, values.weights, values.cache, values.rope} == {"exact"}:
        picked |= {"head_dim": exact_shape[0], "num_heads": exact_shape[1]}
    head_dim = picked["head_dim"]
    quant_group = head_dim // picked.pop("groups")
    return Model(**picked | {"quant_group": quant_group, "rope_dim": min(picked["rope_dim"], head_dim)})


@memoise
def _lengths(longest: int, next_n: int, block_size: int) -> tuple[Sequence[int], ...]:
    """Context lengths: boundaries of every kind two times out of three, and often less than one step's next_n."""
    page_edges = (block_size * pages + d for pages in (1, 2, 3) for d in (-1, 0, 1))
    edges = {*LENGTHS, next_n - 1, next_n, next_n + 1, *page_edges, longest}
    bounded = sorted(edge for edge in edges if 0 <= edge <= longest)
    return (bounded,) * 4 + (range(longest + 1), range(min(next_n, longest) + 1))


def _batch(choices: _Choices, model: Model, block_size: int, budget: Budget) -> Batch:
    """Requests whose work stays within the budget: each one takes its share of what is left."""
    picked = choices.of_each(BATCH)
    kind, above, next_n = picked.pop("kind"), picked.pop("above"), picked["next_n"]
    page = block_size * (model.head_dim + 4)
    scores, tokens = budget.scores // model.num_heads, budget.activations // (model.num_heads * model.head_dim)
    pages = max(budget.cached // page, 4)
    longest = min(budget.length, budget.cached // (model.head_dim + 4))
    lengths = _lengths(longest, next_n, block_size)

    requests = 0 if kind == "prefill" else min(picked["decode"], max(tokens // (2 * next_n), 1), pages // 2)
    some = [choices.of_one(lengths) for _ in range(LENGTHS_PER_BATCH)]
    decode: list[int] = []
    for i in range(requests):
        length = min(some[i % len(some)], scores // next_n)
        scores -= length * next_n
        decode.append(length)
    tokens = max(tokens - len(decode) * next_n, 1)

    requests = 0 if kind == "decode" else min(picked["prefill"], max(pages - len(decode), 1))
    requested = [(choices.of(NEW_TOKENS), choices.of_one(lengths)) for _ in range(max(BATCH["prefill"]))]
    prefill: list[Prefill] = []
    for new, length in requested[:requests]:
        request = _prefill(new, length, scores, tokens)
        scores -= request.length * request.new
        tokens -= request.new
        prefill.append(request)
    longest, room = max(decode, default=0), picked["max_model_len"]
    affordable = room if room * len(decode) * next_n <= budget.scores else 0
    return Batch(
        **picked
        | {
            "decode": tuple(decode),
            "prefill": tuple(prefill),
            "max_model_len": max(1, longest + above, affordable),
            "short_slots": picked["short_slots"] and picked["pad_tokens"] > 0,
        }
    )


def _prefill(new: int, length: int, scores: int, tokens: int) -> Prefill:
    """A request of about this size that takes no more than what is left."""
    new = min(new, tokens)
    length = max(new, length)
    return Prefill(length=length, new=new if length * new <= scores else min(new, scores // length))


def _cache(choices: _Choices, model: Model, batch: Batch, block_size: int) -> Cache:
    page = block_size * (model.head_dim + 4)
    lengths = (*batch.decode, *(p.length for p in batch.prefill))
    needed = sum(-(-length // block_size) for length in lengths)
    picked = choices.of_each(
        {
            "pages": ("ordered", "reversed", "permuted", "highest"),
            "layout": ("auto", "auto", "normal", "shuffle"),
            "shared_prefix": (False, False, False, True),
            "spare_blocks": (0, 1, 3),
            "page_pad": (0, 0, 4, 16, 132, 1024),
            "far_spare": (2, 5),
            "offset": OFFSETS,
            "far": (False, False, True),
        }
    )
    far_spare, offset = picked.pop("far_spare"), picked.pop("offset")
    if picked.pop("far") and 0 < needed <= FAR_PAGES:
        # With two spare pages or more, no stride is itself beyond the offset; some request owns the last page.
        stride = -(-offset // (needed + far_spare - 1))
        picked |= {"spare_blocks": far_spare, "page_pad": max(stride + -stride % 4 - page, 0)}
        picked["pages"] = "highest" if picked["pages"] == "ordered" else picked["pages"]
    elif page >= 1 << 17:
        picked["spare_blocks"] = min(picked["spare_blocks"], 1)
    return Cache(block_size=block_size, **picked)


def _values(choices: _Choices, only: tuple[Regime, ...]) -> Values:
    """Regimes of every tensor; a quarter of the samples lie in the exact regime, where every bit is determined."""
    allowed: dict[str, Any] = {name: _restrict(regimes, only) for name, regimes in WEIGHTED.items()}
    may_be_exact = all("exact" in regimes for regimes in allowed.values())
    chosen = choices.of_each({**allowed, "exact": (False, True, False, False)})
    if chosen.pop("exact") and may_be_exact:
        chosen = dict.fromkeys(allowed, "exact")
    return Values(seed=choices.number(4), **chosen)


@memoise
def _restrict(regimes: tuple[Regime, ...], only: tuple[Regime, ...]) -> tuple[Regime, ...]:
    if "nonfinite" in only:
        regimes = (*regimes, "nonfinite")
    return tuple(r for r in regimes if r in only) or regimes if only else regimes
