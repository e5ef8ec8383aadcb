"""Hypothesis strategies for Case: which samples to try.

The ranges come from bugs that shipped in real indexer kernels. Sizes are drawn from boundaries (tile and page edges,
0, 1, next_n) far more often than from the middle. Most samples are small, because most bugs show in small ones and a
small one costs little; some are larger, so that nothing that fits a laptop is out of reach. Simple values come first
in every choice: Hypothesis shrinks towards them.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache as memoise
from math import log2
from typing import Any, Literal, get_args

from hypothesis import strategies as st

from indexfuzz.core.case import FAR, Case
from indexfuzz.core.case_parts import QUARTERS, TILE, Batch, Cache, Far, Memory, Model, Regime, Rope, Shifted, Values
from indexfuzz.core.presets import PRESETS, Preset
from indexfuzz.generation.aims import LIMITS, Aim, draw_aim, draw_beyond
from indexfuzz.generation.batches import ANY_OF, Budget, Shape, draw_batch
from indexfuzz.generation.choices import Choices
from indexfuzz.samples.regimes import TENSORS

FORMATS: tuple[Literal["e4m3fn", "e4m3fnuz"], ...] = ("e4m3fn", "e4m3fnuz")
HEAD_DIMS = (32, 64, 128)
ODD_HEAD_DIMS = (16, 100)
NUM_HEADS = (1, 2, 6, 8, 12, 16, 24, 32, 64, 128)
BLOCK_SIZES = (1, 16, 32, 48, 64, 128, 256, 640)
ODD_BLOCK_SIZES = (2, 8, 24)
OFFSETS = (1 << 31, 1 << 33, 1 << 34, 1 << 34, 1 << 34)
"""Bytes at which 32 bits end: signed byte offsets, and signed and unsigned offsets that count scales of four bytes.
With nine pages before it, the last is beyond all others, that of unsigned bytes included, by a stride that fits."""
FAR_PAGES = 8
"""Pages of requests in a cache that spans gigabytes: each touches memory of its own."""
YOUNGER: dict[str, Regime] = {"k": "faint", "weights": "full"}
"""Regimes that take the place of others, so that no other choice of older cases moves."""
MOSTLY = (0b11000, 0b1000)
GIVES_WAY: dict[str, dict[str, tuple[int, int]]] = {
    "k": {"normal": (0b111, 0b111)},
    "weights": {"normal": (0b1000, 0b1000), **dict.fromkeys(("ties", "saturation", "subnormal", "clamp"), MOSTLY)},
}
"""Those others, each where some bits of the seed make so much. Four of weights aim at the steps of FP8, which weights
are never rounded to."""

WEIGHTED: dict[str, tuple[Regime, ...]] = {
    name: ("zeros", "exact", "normal", "normal", *(r for r in regimes if r != YOUNGER.get(name)))
    for name, regimes in TENSORS.items()
}
EXACT_SHAPES = tuple((dim, heads) for dim in HEAD_DIMS for heads in NUM_HEADS if log2(dim * heads) % 2 == 0)
"""(head_dim, num_heads) whose factor D^-0.5 * H^-0.5 is a power of two: exact values stay exact through the logits."""

PADS = (0, 0, 0, 16, 24, 64)
RARE_PADS = (0, 0, 0, 0, 0, 1, 16, 24)
FAR_TENSORS: tuple[Far, ...] = ("q", "k", "weights", "table", "k_fp8", "q_fp8", "q_weights", "logits")
"""Tensors whose rows may lie so far apart that the last one starts beyond 2^31 elements."""
RARELY_PADDED = ("k_fp8_pad", "q_fp8_pad", "q_weights_pad", "logits_pad", "angles_pad")
HEAD_PADS = ("q_head_pad", "q_fp8_head_pad")
MEMORY: dict[str, Sequence[Any]] = {
    "k_pad": PADS,
    "q_pad": PADS,
    "weights_pad": (0, 0, 1, 8),
    "table_pad": (0, 0, 1, 5),
    "table_extra": (0, 0, 1, 3),
    "table_tail": ("minus-one", "num-blocks", "huge"),
    "slots": ("int64", "int32"),
    **dict.fromkeys(RARELY_PADDED, RARE_PADS),
    "missing_pages": (0,) * 24 + tuple(range(1, 9)),
    **dict.fromkeys(HEAD_PADS, RARE_PADS),
    "lens_pad": RARE_PADS,
    "lens_step": (1,) * 8 + (2, 3),
    "shift": (0,) * 8 + (1, 2, 4, 8, 3, 5),
    "shifted": ("all",) * 20 + get_args(Shifted)[1:],
    "fused": (False,) * 7 + (True,),
    "far": ("none",) * 20 + FAR_TENSORS,
}
ROPE: dict[str, Sequence[Any]] = {
    "style": ("neox", "interleaved"),
    "placement": ("first", "last"),
    "mode": ("functional", "inplace"),
    "table": ("fp32", "bf16"),
}
LATER: dict[str, Sequence[Any]] = {
    "select_holes": (0,) * 12 + tuple(range(1, 9)),
    "slot_holes": (0,) * 24 + tuple(range(1, 9)),
    "positions": ("rank",) * 7 + ("shifted", "repeated", "gapped"),
    "row_step": (1,) * 9 + (2, 4, 8),
    "gather_cut": (0,) * 9 + (1, 5, 64),
}
"""Fields of the batch that are drawn last, because they are younger: the same bytes give what they always gave."""

LATER_MEMORY: dict[str, Sequence[Any]] = {
    "columns_pad": RARE_PADS,
    "far": (None,) * 27 + ("columns",),
    "weights_head_pad": RARE_PADS,
    "q_weights_head_pad": RARE_PADS,
}
"""Fields of the memory, likewise; a tensor that is far takes the place of another one."""

PLAIN, MXFP4 = (1, "fp32"), (QUARTERS, "mxfp4")
SCALES = (PLAIN,) * 11 + (MXFP4,) * 2 + ((1, "ue8m0"),) + ((QUARTERS, "ue8m0"),) * 2
"""How many scales a key has, and in which form. Bits of the seed choose, so that no other choice of older cases
moves."""

DTYPES = {"indices": "int64", "positions": "int32", "head_weights": "bf16", "norm_weights": "bf16"}
"""Other dtypes than the plainest, each in one case of eight, likewise."""

ACTIVATIONS = ("bf16",) * 6 + ("fp16", "fp32")
"""The dtype of q and k, likewise."""

OTHERS = ((False, ""), (False, ""), (True, ""), (True, "spare"))
"""Whether another cache has the same storage, and what the unused columns of tables then hold, likewise."""

NORMS: tuple[Literal["layer", "rms"], ...] = ("layer",) * 7 + ("rms",)
"""How keys are normed, likewise."""

MOST_PAD, MOST_SPARE = 512, 64
ANY_PADS = {
    **dict.fromkeys(("k_pad", "q_pad", "weights_pad", "table_pad", "table_extra", *RARELY_PADDED), MOST_PAD),
    **dict.fromkeys((*HEAD_PADS, "lens_pad"), 64),
}
"""Pads that are now and then any from 1 to these."""
LAPTOP = Budget()
SMALL = Budget(scores=1 << 14, activations=1 << 13, length=72, cached=1 << 17)
MEDIUM = Budget(scores=1 << 16, activations=1 << 15, length=150, cached=1 << 19)
WIDE = Budget(scores=1 << 18, activations=1 << 17, length=150, cached=1 << 22)
"""For a case of which one size is large, and all others are small."""

MIXED = (SMALL,) * 16 + (MEDIUM,) * 6 + (LAPTOP,)
EASY = {"context": 300, "keys": 300, "pages": 4, "decode": 33, "decode_rows": 65, "prefill_rows": 65, "tokens": 65}
"""Sizes that every budget affords. Beyond them, heads and dims are as few as it takes."""

PUBLISHED: tuple[Preset | None, ...] = (None,) * 20 + tuple(PRESETS.values())
"""One case in ten has the shape of a published model, those aside whose keys have other scales."""

PUBLISHED_BUDGET = Budget(scores=1 << 15, activations=1 << 15, length=150, cached=1 << 18)
KEYS_BESIDE = 2500
"""Products q . k of a head that a case with one long row may have beside those of that row."""

MOST_SCORES = 1 << 20
"""Products q . k that it may have, of all heads."""

LEAST_TOPK, FULL_PUBLISHED, FULL = 300, (False, False, True), (False,) * 7 + (True,)
"""Of the cases that choose at least so many keys and aim at nothing, how many have a request of that many or more."""


def cases(
    *,
    preset: Preset | None = None,
    values: tuple[Regime, ...] = (),
    formats: tuple[str, ...] = FORMATS,
    budget: Budget | None = None,
    constants: tuple[int, ...] = (),
) -> st.SearchStrategy[Case]:
    """One whole indexer step.

    `preset` pins the model's shape, RoPE style and block sizes; `values` restricts the regimes, of every tensor that
    has one of them; `formats` are the FP8 formats that the device has; without a `budget`, each sample takes one of
    MIXED, or WIDE where one of its sizes is large. `constants` are numbers that the code under test compares sizes
    with, as far as that is known: sizes are drawn at them, and beside them.
    """
    budgets = (budget,) if budget else MIXED

    def build(decisions: bytes) -> Case:
        choices = Choices(decisions)
        allowed, published = choices.of(budgets), choices.of(PUBLISHED)
        published = preset or published
        aim = draw_aim(choices, constants)
        regimes = _values(choices, values)
        model = _model(choices, formats, regimes, aim)
        block_size = _block_size(choices, published, aim)
        if published:
            fp8 = published.model.fp8 if published.model.fp8 in formats else model["fp8"]
            model = published.model.model_dump() | {"fp8": fp8}
            aim = aim if aim.size in ("context", "keys", "max_model_len") else Aim()
        beyond, is_lean = draw_beyond(choices, model["index_topk"]), choices.of((True, False))
        is_full = choices.of(FULL_PUBLISHED if published else FULL) and model["index_topk"] >= LEAST_TOPK
        is_full = is_full and budget is None and not aim.size
        aim = beyond if is_full else aim
        is_large = budget is None and not published and not is_full and aim.value > EASY.get(aim.size, 1000)
        heads, dim = model["num_heads"], model["head_dim"]
        if is_large:
            allowed = WIDE
            heads, dim = _shape(model, aim, is_lean=is_lean)
        elif published or is_full:
            allowed = budget or (_for_a_row(model, aim) if aim.size else PUBLISHED_BUDGET)
        batch = draw_batch(choices, Shape(heads, dim, block_size), allowed, aim)
        if is_large and aim.size != "head_rows":
            heads, dim = _affordable(model["num_heads"], model["head_dim"], batch, allowed)
        if dim != model["head_dim"] or heads != model["num_heads"]:
            model |= {"num_heads": heads, "head_dim": dim, "quant_group": dim, "rope_dim": min(model["rope_dim"], dim)}
        topk = _topk(choices, model["index_topk"], batch, aim)
        if not published:
            model["index_topk"] = topk
        rope = choices.of_each(ROPE)
        if published:
            rope |= {"style": published.style, "placement": published.placement}
        cache, memory = _cache(choices, Shape(heads, dim, block_size), batch, aim), _memory(choices)
        younger = choices.of_each(LATER)
        batch = batch.model_copy(update=younger | ({"gather_cut": 0} if aim.size == "keys" else {}))
        later = {name: value for name, value in choices.of_each(LATER_MEMORY).items() if value is not None}
        groups, scales = SCALES[regimes.seed >> 8 & 15]
        fits = scales != "mxfp4" or not (published or model["head_dim"] % (2 * QUARTERS))
        if scales != "fp32" and fits and not (preset and groups > 1):
            model |= {"scale_fmt": "ue8m0", "quant_group": model["head_dim"] // groups}
            cache = _with_scales(cache, scales, model["head_dim"] // 2, regimes.seed)
        regimes = regimes if values else _with_extremes(regimes, cache.scales)
        if not preset:
            model["k_norm"] = NORMS[regimes.seed >> 12 & 7]
        others, dtypes = _of_seed(regimes.seed >> 15)
        cache, later = cache.model_copy(update={"others": others}), later | dtypes
        return Case(
            model=Model(**model),
            cache=cache,
            batch=batch,
            rope=Rope(**rope),
            memory=memory.model_copy(update=later),
            values=regimes,
        )

    return st.binary(min_size=DECISIONS, max_size=DECISIONS).map(build)


DECISIONS = 320
"""Bytes that decide a case."""


def _model(choices: Choices, formats: tuple[str, ...], values: Values, aim: Aim) -> dict[str, Any]:
    rarely = 40
    picked = choices.of_each(
        {
            "num_heads": NUM_HEADS,
            "head_dim": HEAD_DIMS * rarely + ODD_HEAD_DIMS,
            "rope_dim": (16, 32, 64, 128, 2, 24, 48),
            "scale_fmt": ("ue8m0", "fp32"),
            "fp8": [fp8 for fp8 in ("e4m3fn", *FORMATS) if fp8 in formats],
            "index_topk": (1, 2, 4, 16, 64, 512, 1024, 2048),
            "groups": (1,) * rarely + (2,),
            "exact_shape": EXACT_SHAPES,
            "is_exact_shape": (True, True, True, False),
        }
    )
    picked["num_heads"] = choices.of((picked["num_heads"], choices.between(1, 128)))
    picked["rope_dim"] = choices.of((picked["rope_dim"], 2 * choices.between(1, 64)))
    is_wanted, exact_shape = picked.pop("is_exact_shape"), picked.pop("exact_shape")
    if is_wanted and {values.q, values.k, values.weights, values.cache, values.rope} == {"exact"}:
        picked |= {"head_dim": exact_shape[0], "num_heads": exact_shape[1]}
    picked["num_heads"] = aim.of("num_heads", picked["num_heads"])
    head_dim = picked["head_dim"]
    quant_group = head_dim // picked.pop("groups")
    return picked | {"quant_group": quant_group, "rope_dim": min(picked["rope_dim"], head_dim)}


def _block_size(choices: Choices, published: Preset | None, aim: Aim) -> int:
    """Mostly one that is in use; else one of whole tiles, or any at all."""
    used = choices.of(BLOCK_SIZES * 3 + ODD_BLOCK_SIZES)
    tiled, free = TILE * choices.between(1, 64), choices.between(1, 1024)
    drawn = aim.of("block_size", choices.of((used,) * 10 + (tiled,) * 3 + (free,) * 3))
    fixed = choices.of(published.block_sizes if published else (1,))
    return fixed if published else drawn


def _for_a_row(model: dict[str, Any], aim: Aim) -> Budget:
    """A budget for the row that is aimed at, and little beside it."""
    scores = min(model["num_heads"] * (aim.value + KEYS_BESIDE), MOST_SCORES)
    cached = max(2 * aim.value * (model["head_dim"] + 4), PUBLISHED_BUDGET.cached)
    return replace(PUBLISHED_BUDGET, scores=scores, cached=cached)


def _shape(model: dict[str, Any], aim: Aim, *, is_lean: bool) -> tuple[int, int]:
    """Heads and dims to draw a large batch for: few, so that there may be many rows, or else as many as one row may."""
    if aim.size == "head_rows":
        return model["num_heads"], min(HEAD_DIMS)
    if is_lean or aim.size not in ("context", "keys"):
        return 1, min(HEAD_DIMS)
    return min(model["num_heads"], max(WIDE.scores // aim.value, 1)), model["head_dim"]


def _affordable(heads: int, dim: int, batch: Batch, budget: Budget) -> tuple[int, int]:
    """As many heads and dims as a batch leaves room for."""
    tokens = max(batch.tokens, 1)
    dim = max((d for d in HEAD_DIMS if d <= dim and tokens * d <= budget.activations), default=min(HEAD_DIMS))
    return max(min(heads, budget.scores // max(batch.scores, 1), budget.activations // (tokens * dim)), 1), dim


def _topk(choices: Choices, drawn: int, batch: Batch, aim: Aim) -> int:
    """Often as many as the longest row has, or one more or less."""
    longest = max((*batch.decode, *(p.length for p in batch.prefill)), default=0)
    near = longest + choices.of((0, -1, 1))
    anywhere = choices.between(1, LIMITS["index_topk"])
    topk = choices.of((drawn,) * 4 + (near,) * 2 + (anywhere,) * 2)
    return min(max(aim.of("index_topk", topk), 1), LIMITS["index_topk"])


def _cache(choices: Choices, shape: Shape, batch: Batch, aim: Aim) -> Cache:
    block_size = shape.block_size
    page = block_size * (shape.head_dim + 4)
    lengths = (*batch.decode, *(p.length for p in batch.prefill))
    needed = sum(-(-length // block_size) for length in lengths)
    picked = choices.of_each(
        {
            "pages": ("ordered", "reversed", "permuted", "highest"),
            "layout": ("auto", "auto", "normal", "shuffle"),
            "is_tiled": (False,) * 7 + (True,),
            "shared_prefix": (False, False, False, True),
            "spare_blocks": (0, 1, 3),
            "page_pad": (0, 0, 4, 16, 132, 1024),
            "far_spare": (3, 9),
            "offset": OFFSETS,
            "far": (False, False, True),
        }
    )
    any_pages, any_pad = choices.between(1, MOST_SPARE), 4 * choices.between(1, MOST_PAD)
    picked["spare_blocks"] = choices.of((picked["spare_blocks"],) * (ANY_OF - 1) + (any_pages,))
    picked["page_pad"] = choices.of((picked["page_pad"],) * (ANY_OF - 1) + (any_pad,))
    is_tiled = picked.pop("is_tiled")
    if block_size % TILE and block_size > 1 and not is_tiled:
        picked["layout"] = "normal"
    spare = min(picked["spare_blocks"], max(SMALL.cached // page, 3))
    pool = min(aim.of("num_blocks", 0), WIDE.cached // page)
    picked["spare_blocks"] = max(spare, pool - needed)
    far_spare, offset = picked.pop("far_spare"), picked.pop("offset")
    if picked.pop("far") and 0 < needed <= FAR_PAGES:
        picked |= far_pages(needed, page, far_spare, offset, picked["pages"])
    elif page >= 1 << 17:
        picked["spare_blocks"] = min(picked["spare_blocks"], 1)
    return Cache(block_size=block_size, **picked)


def far_pages(needed: int, page: int, far_spare: int, offset: int, order: str) -> dict[str, Any]:
    """Fields of a cache in which the pages behind the spare ones, `needed` of them, lie beyond an offset in bytes.

    Those are all that requests own, but where their `order` is permuted: any that is written or read may show a
    mistake. With three spare pages or more, twice the stride is below the offset: else the stride would be passed in
    64 bits, and no product with it end at 32.
    """
    spare = max(far_spare, needed + 1)
    stride = -(-offset // spare)
    pad, order = max(stride + -stride % 4 - page, 0), "highest" if order == "ordered" else order
    return {"spare_blocks": spare, "page_pad": pad, "pages": order}


def _with_scales(cache: Cache, scales: str, half: int, seed: int) -> Cache:
    """The cache with keys that have such scales: those in MXFP4 take half as many bytes for their values.

    Far pages stay where they are. Where there are tiles, half of those in MXFP4 have interleaved exponents.
    """
    if scales != "mxfp4":
        return cache.model_copy(update={"scales": scales})
    tiled = cache.page_layout == "shuffle" and not (cache.block_size % TILE or half % TILE)
    layout = "shuffle-scales" if tiled and seed >> 1 & 1 else cache.layout
    pad = cache.page_pad + (cache.block_size * half if cache.page_pad > FAR else 0)
    return cache.model_copy(update={"scales": scales, "layout": layout, "page_pad": pad})


def _with_extremes(regimes: Values, scales: str) -> Values:
    """The regimes, and what extremes of one tensor need of others to show.

    Of keys with UE8M0 scales many have all exponents, the least as well, and most of these meet weights of all of fp32:
    beside small ones a score times 2^-127 is less than any kernel may lose. Keys in MXFP4 stay: it would show where q
    and k are near their largest in every dim alone. A weight shows nothing beside a score of zero.
    """
    which, chosen = regimes.seed >> 4 & 3, dict[str, Regime]()
    if scales == "ue8m0" and which and "exact" not in (regimes.cache, regimes.weights):
        chosen = {"cache": "wide", "weights": YOUNGER["weights"] if which & 2 else regimes.weights}
    if chosen.get("weights", regimes.weights) == YOUNGER["weights"]:
        for name in ("q", "cache"):
            if getattr(regimes, name) == "zeros":
                chosen.setdefault(name, "normal")
    return regimes.model_copy(update=chosen)


def _memory(choices: Choices) -> Memory:
    """Pads mostly from short lists, for they are what kernels are written for; now and then any."""
    picked = choices.of_each(MEMORY)
    for name, most in ANY_PADS.items():
        picked[name] = choices.of((picked[name],) * (ANY_OF - 1) + (choices.between(1, most),))
    return Memory(**picked)


def _of_seed(bits: int) -> tuple[bool, dict[str, Any]]:
    """Whether another cache has the same storage, and fields of the memory: choices that bits of the seed decide."""
    fields: dict[str, Any] = {name: other for at, (name, other) in enumerate(DTYPES.items()) if bits >> 3 * at & 7 == 7}
    bits >>= 3 * len(DTYPES)
    fields["activations"] = ACTIVATIONS[bits & 7]
    others, tail = OTHERS[bits >> 3 & 3]
    return others, fields | ({"table_tail": tail} if tail else {})


def _values(choices: Choices, only: tuple[Regime, ...]) -> Values:
    """Regimes of every tensor; a quarter of the samples lie in the exact regime, where every bit is determined."""
    allowed: dict[str, Any] = {name: _restrict(name, only) for name in WEIGHTED}
    may_be_exact = all("exact" in regimes for regimes in allowed.values())
    chosen = choices.of_each({**allowed, "exact": (False, True, False, False)})
    if chosen.pop("exact") and may_be_exact:
        chosen = dict.fromkeys(allowed, "exact")
    seed = choices.number(4)
    for name, younger in YOUNGER.items() if not only else ():
        mask, least = GIVES_WAY[name].get(chosen[name], (0, 1))
        if seed & mask >= least:
            chosen[name] = younger
    return Values(seed=seed, **chosen)


@memoise
def _restrict(name: str, only: tuple[Regime, ...]) -> tuple[Regime, ...]:
    every = (*WEIGHTED[name], *(r for r in TENSORS[name] if r == YOUNGER.get(name)), "nonfinite")
    return tuple(r for r in every if r in only) or WEIGHTED[name]
