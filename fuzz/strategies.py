"""Hypothesis strategies for Case: which samples to try.

The ranges come from bugs that shipped in real indexer kernels. Sizes are drawn from boundaries (tile and page edges,
0, 1, next_n) far more often than from the middle, and kept within a budget of work, so that a laptop runs hundreds of
cases a minute. Simple values come first in every choice: Hypothesis shrinks towards them.
"""

from dataclasses import dataclass
from functools import cache as memoise
from typing import Any, Literal

from hypothesis import strategies as st

from indexfuzz.case import Batch, Cache, Case, Memory, Model, Prefill, Regime, Rope, Values
from indexfuzz.presets import Preset
from indexfuzz.regimes import TENSORS

FORMATS: tuple[Literal["e4m3fn", "e4m3fnuz"], ...] = ("e4m3fn", "e4m3fnuz")
HEAD_DIMS = (32, 64, 128)
NUM_HEADS = (1, 2, 6, 8, 12, 16, 24, 32, 64, 128)
BLOCK_SIZES = (1, 16, 32, 48, 64, 128, 256, 640)
ODD_BLOCK_SIZES = (2, 8, 24)
LENGTHS = (0, 1, 2, 3, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 240, 257)
OFFSETS = (1 << 31, 1 << 32, 1 << 33)
"""Bytes at which 32 bits end: signed and unsigned byte offsets, and offsets that count scales of four bytes."""
FAR_PAGES = 8
"""Pages of requests in a cache that spans gigabytes: each touches memory of its own."""
WEIGHTED: dict[str, tuple[Regime, ...]] = {
    name: ("zeros", "exact", "normal", "normal", *regimes) for name, regimes in TENSORS.items()
}


@dataclass(frozen=True)
class Budget:
    """How much work one sample may be."""

    scores: int = 1 << 18
    """Products q . k of one head, summed over the rows of both logits stages."""
    activations: int = 1 << 17
    """Elements of q."""
    length: int = 300
    """Longest context."""
    cached: int = 1 << 20
    """Bytes of all pages of the cache."""


LAPTOP = Budget()


@st.composite
def cases(
    draw: st.DrawFn,
    *,
    preset: Preset | None = None,
    values: tuple[Regime, ...] = (),
    formats: tuple[str, ...] = FORMATS,
    budget: Budget = LAPTOP,
) -> Case:
    """One whole indexer step.

    `preset` pins the model's shape, RoPE style and block sizes; `values` restricts the regimes, of every tensor that
    has one of them; `formats` are the FP8 formats that the device has.
    """
    model = draw(_models(preset, formats))
    block_size = draw(_block_sizes(preset))
    batch = draw(_batches(model, block_size, budget))
    cache = draw(_caches(model, batch, block_size))
    rope = Rope(
        style=preset.style if preset else draw(st.sampled_from(("neox", "interleaved"))),
        placement=preset.placement if preset else draw(st.sampled_from(("first", "last"))),
        mode=draw(st.sampled_from(("functional", "inplace"))),
        table=draw(st.sampled_from(("fp32", "bf16"))),
    )
    memory, regimes = draw(_memories()), draw(_values(values))
    return Case(model=model, cache=cache, batch=batch, rope=rope, memory=memory, values=regimes)


def _rarely(draw: st.DrawFn, once_in: int) -> bool:
    """False, but for one draw in `once_in`; shrinks to False."""
    return draw(st.integers(0, once_in - 1)) == once_in - 1


@st.composite
def _models(draw: st.DrawFn, preset: Preset | None, formats: tuple[str, ...]) -> Model:
    if preset:
        return preset.model
    head_dim = draw(st.sampled_from(HEAD_DIMS))
    if _rarely(draw, 40):
        head_dim = draw(st.sampled_from((16, 100)))
    rope_dim = min(draw(st.sampled_from((16, 32, 64, head_dim - head_dim % 2, 2, 24, 48))), head_dim)
    return Model(
        num_heads=draw(st.sampled_from(NUM_HEADS)),
        head_dim=head_dim,
        rope_dim=rope_dim,
        quant_group=head_dim // 2 if _rarely(draw, 60) else head_dim,
        scale_fmt=draw(st.sampled_from(("ue8m0", "fp32"))),
        fp8=draw(st.sampled_from([fp8 for fp8 in ("e4m3fn", *FORMATS) if fp8 in formats])),
        index_topk=draw(st.sampled_from((1, 2, 4, 16, 64, 2048))),
    )


def _block_sizes(preset: Preset | None) -> st.SearchStrategy[int]:
    if preset:
        return st.sampled_from(preset.block_sizes)
    return st.sampled_from(BLOCK_SIZES * 3 + ODD_BLOCK_SIZES)


@memoise
def _lengths(longest: int, next_n: int, block_size: int) -> st.SearchStrategy[int]:
    """Context lengths: boundaries of every kind two times out of three, and often less than one step's next_n."""
    page_edges = (block_size * pages + d for pages in (1, 2, 3) for d in (-1, 0, 1))
    edges = {*LENGTHS, next_n - 1, next_n, next_n + 1, *page_edges, longest}
    bounded = sorted(edge for edge in edges if 0 <= edge <= longest)
    padding = st.integers(0, min(next_n, longest))
    return st.one_of(*[st.sampled_from(bounded)] * 4, st.integers(0, longest), padding)


@st.composite
def _batches(draw: st.DrawFn, model: Model, block_size: int, budget: Budget) -> Batch:
    """Requests whose work stays within the budget: each one takes its share of what is left."""
    kind = draw(st.sampled_from(("decode", "prefill", "mixed", "mixed")))
    next_n = draw(st.sampled_from((1, 1, 2, 3, 4, 5, 6)))
    scores, tokens = budget.scores // model.num_heads, budget.activations // (model.num_heads * model.head_dim)
    longest = min(budget.length, budget.cached // (model.head_dim + 4))
    decode: list[int] = []
    wanted = 0 if kind == "prefill" else draw(st.sampled_from((1, 1, 2, 3, 4, 8, 31, 32, 33, 65)))
    pages = budget.cached // (block_size * (model.head_dim + 4))
    lengths = _lengths(longest, next_n, block_size)
    for _ in range(min(wanted, tokens // (2 * next_n), pages // 2)):
        length = draw(lengths)
        if scores < length * next_n:
            length = scores // next_n
        scores -= length * next_n
        decode.append(length)
    tokens -= len(decode) * next_n
    prefill: list[Prefill] = []
    wanted = 0 if kind == "decode" else draw(st.sampled_from((1, 1, 2, 2, 3, 5)))
    for _ in range(min(wanted, max(pages - len(decode), 1))):
        new = min(draw(st.sampled_from((0, 1, 2, 3, 15, 16, 17, 33, 64))), max(tokens, 0))
        length = max(new, draw(lengths))
        if scores < length * new:
            new = min(new, scores // max(length, 1))
        scores -= length * new
        tokens -= new
        prefill.append(Prefill(length=length, new=new))
    pad_tokens = draw(st.sampled_from((0, 0, 0, 1, 2, 7)))
    top = max(decode, default=0)
    return Batch(
        decode=tuple(decode),
        prefill=tuple(prefill),
        next_n=next_n,
        lens=draw(st.sampled_from(("1d", "2d", "ragged"))),
        max_model_len=max(1, top, draw(st.sampled_from((top, top + 1, 40, 64, 256, 300)))),
        pad_tokens=pad_tokens,
        short_slots=pad_tokens > 0 and draw(st.booleans()),
        gather_pad=draw(st.sampled_from((0, 0, 1, 5))),
        empty_windows=_rarely(draw, 4),
    )


@st.composite
def _caches(draw: st.DrawFn, model: Model, batch: Batch, block_size: int) -> Cache:
    page = block_size * (model.head_dim + 4)
    lengths = (*batch.decode, *(p.length for p in batch.prefill))
    needed = sum(-(-length // block_size) for length in lengths)
    pages = draw(st.sampled_from(("ordered", "reversed", "permuted", "highest")))
    if 0 < needed <= FAR_PAGES and _rarely(draw, 3):
        # With two spare pages or more, no stride is itself beyond the offset; some request owns the last page.
        spare = draw(st.sampled_from((2, 5)))
        stride = -(-draw(st.sampled_from(OFFSETS)) // (needed + spare - 1))
        page_pad = max(stride + -stride % 4 - page, 0)
        pages = "highest" if pages == "ordered" else pages
    else:
        page_pad = draw(st.sampled_from((0, 0, 4, 16, 132, 1024)))
        spare = draw(st.sampled_from((0, 1, 3)))
        spare = spare if page < 1 << 17 else min(spare, 1)
    return Cache(
        block_size=block_size,
        layout=draw(st.sampled_from(("auto", "auto", "normal", "shuffle"))),
        spare_blocks=spare,
        pages=pages,
        shared_prefix=_rarely(draw, 4),
        page_pad=page_pad,
    )


@st.composite
def _memories(draw: st.DrawFn) -> Memory:
    pad = st.sampled_from((0, 0, 0, 16, 24, 64))
    return Memory(
        k_pad=draw(pad),
        q_pad=draw(pad),
        weights_pad=draw(st.sampled_from((0, 0, 1, 8))),
        table_pad=draw(st.sampled_from((0, 0, 1, 5))),
        table_extra=draw(st.sampled_from((0, 0, 1, 3))),
        table_tail=draw(st.sampled_from(("minus-one", "num-blocks", "huge"))),
        slots=draw(st.sampled_from(("int64", "int32"))),
    )


@st.composite
def _values(draw: st.DrawFn, only: tuple[Regime, ...]) -> Values:
    """Regimes of every tensor; a quarter of the samples lie in the exact regime, where every bit is determined."""
    allowed: dict[str, Any] = {name: _restrict(regimes, only) for name, regimes in WEIGHTED.items()}
    if all("exact" in regimes for regimes in allowed.values()) and draw(st.integers(0, 3)) == 1:
        chosen: dict[str, Any] = dict.fromkeys(allowed, "exact")
    else:
        chosen = {name: draw(st.sampled_from(regimes)) for name, regimes in allowed.items()}
    return Values(seed=draw(st.integers(0, 1 << 32)), **chosen)


def _restrict(regimes: tuple[Regime, ...], only: tuple[Regime, ...]) -> tuple[Regime, ...]:
    if "nonfinite" in only:
        regimes = (*regimes, "nonfinite")
    return tuple(r for r in regimes if r in only) or regimes if only else regimes
