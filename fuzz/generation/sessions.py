"""Sessions to draw: few requests, few steps, and at each boundary of a group or page a token more or less."""

from typing import Any

from hypothesis import strategies as st

from indexfuzz.core.case import Case
from indexfuzz.core.case_parts import QUARTERS, TILE, Batch, Cache, Memory, Model, Regime, Rope, Values
from indexfuzz.core.session import Fork, Session, SessionStep, Turn
from indexfuzz.core.stage_names import COMPRESS_NORM, FUSED_COMPRESS, FUSED_POOL, POOL, RMS_NORM, STATEFUL_COVERS
from indexfuzz.generation.choices import Choices
from indexfuzz.generation.strategies import FAR_PAGES, OFFSETS, far_pages
from indexfuzz.samples.regimes import TENSORS


def _forms(field: str, *choices: tuple[int, object]) -> tuple[dict[str, Any], ...]:
    return tuple({"ratio": ratio, field: value} for ratio, value in choices)


_COMPRESSED = _forms(
    "overlap", (4, True), (4, True), (4, True), (4, False), (2, True), (2, False), (8, True), (128, False)
)
_POOLED = _forms(
    "pooling", (4, "softmax"), (4, "softmax"), (4, "softmax"), (4, "max"), (2, "softmax"), (2, "max"), (8, "max")
)

_NORMED = tuple({"ratio": ratio} for ratio in (2, 2, 1, 4, 8, 128))

NODES: dict[str, tuple[dict[str, Any], ...]] = {
    "none": ({"ratio": 1},),
    "compress": _COMPRESSED,
    FUSED_COMPRESS: _COMPRESSED,
    POOL: _POOLED,
    FUSED_POOL: _POOLED,
    COMPRESS_NORM: _NORMED,
}
"""What a session of each node may be, that of published models first."""

MODEL = {
    "num_heads": (1, 2),
    "head_dim": (32, 32, 32, 64, 128),
    "scale_fmt": ("ue8m0", "fp32"),
    "index_topk": (1, 4, 16),
}
CACHE = {
    "block_size": (1, 2, 4, 16, 32, 64),
    "layout": ("normal", "auto"),
    "pages": ("ordered", "reversed", "permuted", "highest"),
    "spare_blocks": (0, 0, 1, 2),
    "page_pad": (0, 0, 16, 132),
}
MEMORY = {
    "k_pad": (0, 0, 16),
    "weights_pad": (0, 0, 8),
    "table_pad": (0, 0, 1),
    "table_extra": (0, 0, 2),
    "table_tail": ("minus-one", "num-blocks", "huge"),
}
ANGLES = {
    "style": ("neox", "interleaved"),
    "placement": ("first", "last"),
    "table": ("fp32", "fp32", "bf16"),
    "rope_dim": (16, 8, 32),
    "angles_pad": (0, 0, 4),
}
"""Of RoPE, where it is a part of what makes keys."""

SCALES = ((1, "fp32"),) * 9 + ((QUARTERS, "mxfp4"),) * 3 + ((1, "ue8m0"),) * 2 + ((QUARTERS, "ue8m0"),) * 2
"""How many scales a key has, and in which form."""

FUSED_SCALES = ((1, "fp32"),) * 6 + ((QUARTERS, "mxfp4"),) * 6 + ((1, "ue8m0"),) * 2 + ((QUARTERS, "ue8m0"),) * 2
"""Of operations that insert their keys themselves: single steps ask nobody else for MXFP4 as these write it."""

LATER: dict[str, tuple[Any, ...]] = {
    "far": ("none",) * 30 + ("state", "state", "state", "k", "weights", "table"),
    "has_far_pages": (False,) * 9 + (True,),
    "far_spare": (3, 9),
    "offset": OFFSETS,
}
"""What is drawn last, because it is younger: the same bytes give what they always gave. Rows of a tensor, or pages of
the cache, may lie so far apart that offsets take more than 32 bits."""

REQUESTS = (1, 2, 2, 3)
STEPS = (2, 3, 4, 5, 6)
DRAFTS = (0, 1, 2, 3, 5, 5, 5, 5)
"""The most of a session: rings have room for so many."""
GOES = (False,) * 6 + (True,)
FORKS = (False,) * 8 + (True,)
RESTS = (False, False, False, True)
PADDING = (0, 0, 1, 3)
MOST_TOKENS = 160
"""Tokens of a request, or three groups where these are larger."""

KV: tuple[Regime, ...] = ("zeros", "exact", "normal", "clamp", "outlier", "cancelling", "saturation", "tied", "large")
NORMED_KV: tuple[Regime, ...] = (*KV, "faint", "faint", "faint")
"""Where keys are normed, small ones show what is made of eps."""

SCORES: tuple[Regime, ...] = ("normal", "normal", "exact", "zeros", "tied", "cancelling")
DECISIONS = 192
"""Bytes that decide a session: more than the longest one takes."""


def sessions(
    nodes: tuple[str, ...] = tuple(NODES),
    *,
    formats: tuple[str, ...] = ("e4m3fn", "e4m3fnuz"),
    regimes: tuple[Regime, ...] = (),
) -> st.SearchStrategy[Case]:
    """Sessions of these nodes, for devices that have these FP8 formats, with values of these regimes, or any."""

    def build(decisions: bytes) -> Case:
        choices = Choices(decisions)
        node = choices.of(nodes)
        form = choices.of(NODES[node])
        model: dict[str, Any] = choices.of_each(MODEL) | {"fp8": choices.of(formats)}
        cache: dict[str, Any] = choices.of_each(CACHE)
        if cache["block_size"] % TILE:
            cache["layout"] = "normal"
        memory, values = choices.of_each(MEMORY), _values(choices, node, regimes)
        session = Session.model_validate(
            {"node": node, "steps": _steps(choices, form["ratio"], cache["block_size"])} | form
        )
        rope: dict[str, Any] = {}
        if node == FUSED_COMPRESS:
            rope = choices.of_each(ANGLES)
            model["rope_dim"] = rope.pop("rope_dim")
            memory["angles_pad"] = rope.pop("angles_pad")
        is_fused = node in (FUSED_COMPRESS, FUSED_POOL)
        if is_fused:
            model["scale_fmt"] = "ue8m0"  # as all fused operations have it
        groups, cache["scales"] = choices.of(FUSED_SCALES if is_fused else SCALES)
        if cache["scales"] != "fp32":
            model["scale_fmt"] = "ue8m0"
        if cache["scales"] == "mxfp4" and values.seed & 1:
            cache |= {"layout": "shuffle-scales", "block_size": 4 * TILE if values.seed & 6 else TILE}
            if values.seed & 6:
                session = _beyond_a_tile(session)
        later = choices.of_each(LATER)
        memory["far"] = later["far"]
        case = Case(
            model=Model(**{"rope_dim": 16} | model, quant_group=model["head_dim"] // groups),
            cache=Cache(**cache),
            batch=Batch(max_model_len=max(session.length, 1)),
            rope=Rope(**rope),
            memory=Memory(**memory),
            values=values,
            session=session,
        )
        needed, page = session.pages(case.cache.block_size), case.cache.block_size * case.token_bytes
        if later["has_far_pages"] and 0 < needed <= FAR_PAGES:
            far = far_pages(needed, page, later["far_spare"], later["offset"], case.cache.pages)
            return case.replace(cache=far)
        return case

    return st.binary(min_size=DECISIONS, max_size=DECISIONS).map(build)


def _values(choices: Choices, node: str, only: tuple[Regime, ...]) -> Values:
    kv = NORMED_KV if RMS_NORM in STATEFUL_COVERS.get(node, ()) else KV
    drawn: dict[str, Any] = choices.of_each(
        {"q": ("normal", "exact"), "k": kv, "weights": SCORES, "cache": ("normal",), "rope": ("normal", "exact")}
    )
    allowed = {name: regime for name, regime in drawn.items() if not only or regime in only}
    fallback: dict[str, Any] = {
        name: next((r for r in only if r in TENSORS[name]), regime) for name, regime in drawn.items()
    }
    return Values(seed=choices.number(4), **fallback | allowed)


def _steps(choices: Choices, ratio: int, block_size: int) -> tuple[SessionStep, ...]:
    """Steps that can be: each request comes, rests, forks, goes."""
    count, steps = choices.of(REQUESTS), []
    beyond = ratio * (min(block_size, TILE) + 1)
    lengths, most = dict[int, int](), choices.of(DRAFTS)
    for _ in range(choices.of(STEPS)):
        forks = _forks(choices, lengths, count)
        turns = list[Turn]()
        for request in range(count):
            rests, turn = choices.of(RESTS), _turn(choices, request, lengths.get(request, 0), ratio, most, beyond)
            if not rests or not lengths:
                turns.append(turn)
                lengths[request] = lengths.get(request, 0) + turn.new + turn.accepted
        gone = tuple(request for request in range(count) if choices.of(GOES) and request in lengths)
        for request in gone:
            del lengths[request]
        if choices.of((False, True)):
            turns.reverse()
        steps.append(SessionStep(forks=forks, turns=tuple(turns), free=gone, pad_tokens=choices.of(PADDING)))
    return tuple(steps)


def _beyond_a_tile(session: Session) -> Session:
    """The session with a first chunk that makes one key more than a tile has, where no request has so many."""
    enough = (TILE + 1) * session.ratio
    if session.length >= enough or enough > MOST_TOKENS:
        return session
    first, *steps = session.steps
    turn, *turns = first.turns
    longer = turn.model_copy(update={"new": enough})
    return session.model_copy(update={"steps": (first.model_copy(update={"turns": (longer, *turns)}), *steps)})


def _forks(choices: Choices, lengths: dict[int, int], count: int) -> tuple[Fork, ...]:
    """At most one fork, of the first request that is there into the first that is not."""
    wanted = choices.of(FORKS)
    parent = next(iter(lengths), None)
    child = next((request for request in range(count) if request not in lengths), None)
    if not wanted or parent is None or child is None:
        return ()
    lengths[child] = lengths[parent]
    return (Fork(parent=parent, child=child),)


def _turn(choices: Choices, request: int, length: int, ratio: int, most: int, beyond: int) -> Turn:
    """A chunk that ends near a group's end, or a step of decode, with `most` drafts, or fewer, or without.

    So many tokens more make keys `beyond` a page, or its first tile; those of a tile and one leave a group open.
    """
    to_end = ratio - length % ratio
    drafts = choices.of((0, 0, min(1, most), most // 2, most, most, most))
    accepted = choices.of((0, 0, 0, 0, *range(drafts + 1)))
    # What is taken back hurts most where a group lacks one token, and most of all where that is all.
    lacks_one = (to_end - 1,) * (3 if accepted else 6)
    ends = (to_end, to_end - 1, to_end + 1, *(lacks_one if drafts else (2 * ratio, ratio * 5, beyond)))
    new = choices.of((1, 1, 2, 0, 3, *ends, ratio + 1, TILE + 1, 2 * TILE + 1))
    new = min(new, max(MOST_TOKENS, 3 * ratio) - length) if length < max(MOST_TOKENS, 3 * ratio) else 1
    return Turn(request=request, new=new, drafts=drafts, accepted=accepted)
