"""Strategies: every value that history asks for is drawn, cheaply, and shrinks to the plainest."""

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, Phase, find, given, seed, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers

from indexfuzz.core.case import FAR, Case
from indexfuzz.core.presets import PRESETS
from indexfuzz.generation import strategies
from indexfuzz.generation.stream import draw
from indexfuzz.samples.materialise import materialise
from indexfuzz.samples.regimes import TENSORS

SAMPLES = 2500
QUIET = settings(database=None, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])


def drawn(count: int, strategy: st.SearchStrategy[Case]) -> list[Case]:
    found: list[Case] = []

    def keep(case: Case) -> None:
        found.append(case)

    seed(1)(settings(QUIET, max_examples=count)(given(strategy)(keep)))()
    return found


@pytest.fixture(scope="module")
def samples() -> list[Case]:
    return drawn(SAMPLES, strategies.cases())


def test_to_draw_cases_reads_no_modules(monkeypatch, tmp_path):
    def read(module):
        raise AssertionError(f"{module} was read")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(providers, "_seen_modules", set())
    monkeypatch.setattr(providers, "_sys_modules_len", None)
    monkeypatch.setattr(providers, "constants_from_module", read)
    assert len(draw(strategies.cases(), 1, 200)) == 200
    assert not list(tmp_path.iterdir())
    with pytest.raises(AssertionError, match="was read"):
        drawn(200, strategies.cases())


def facts(case: Case) -> Iterator[str]:
    """What a case has of the ranges that history asks for."""
    model, cache, batch, memory = case.model, case.cache, case.batch, case.memory
    yield f"block_size {cache.block_size}"
    yield f"head_dim {model.head_dim}"
    yield f"num_heads {model.num_heads}"
    yield f"{model.fp8} {model.scale_fmt}"
    yield f"batch {len(batch.decode)}"
    yield f"prefill rows {batch.prefill_rows}"
    yield f"page_pad {cache.page_pad}"
    yield f"slots {memory.slots}"
    yield f"layout {cache.layout}"
    yield from (f"{name} {getattr(case.values, name)}" for name in TENSORS)
    yield from (f"context {length}" for length in case.lengths)
    if batch.decode:
        yield f"next_n {batch.next_n}"
        yield f"lens {batch.lens}"
        yield f"max_model_len {batch.max_model_len}"
    yield from (f"context next_n {length - batch.next_n:+}" for length in batch.decode)
    yield from _offsets(case)
    yield from _padding(case)
    if any(case.lengths) and memory.table_extra:
        yield f"table tail {memory.table_tail}"
    if len({getattr(case.values, name) for name in TENSORS}) == 1:
        yield f"all {case.values.q}"
        if (model.head_dim, model.num_heads) in strategies.EXACT_SHAPES:
            yield f"all {case.values.q}, scaled by a power of two"


def _offsets(case: Case) -> Iterator[str]:
    stride = case.cache.block_size * (case.model.head_dim + 4) + case.cache.page_pad
    for bits in (31, 32):
        if (case.num_blocks - 1) * stride >= 1 << bits:
            yield f"offset beyond 2^{bits}"


def _padding(case: Case) -> Iterator[str]:
    batch = case.batch
    short = [length < batch.next_n for length in batch.decode]
    if short and short[0]:
        yield "slot -1 in front"
    if any(short[1:]):
        yield "slot -1 in the middle"
    if batch.pad_tokens and batch.tokens > batch.pad_tokens:
        yield "slots shorter than k" if batch.short_slots else "slot -1 at the end"
    if batch.gather_pad and batch.prefill:
        yield "gather padding"
    if sum(p.length for p in batch.prefill[:-1]) and batch.prefill[-1].new:
        yield "ks above 0"
    if any(p.length > p.new > 0 for p in batch.prefill):
        yield "chunked prefill"
    if any(p.length == 0 for p in batch.prefill):
        yield "empty request"


WANTED = {
    "block_size": (1, 2, 8, 16, 24, 32, 48, 64, 128, 256, 640),
    "head_dim": (16, 32, 64, 100, 128),
    "num_heads": (1, 6, 8, 12, 16, 24, 32, 64, 128),
    "batch": (0, 1, 2, 31, 32, 33, 65),
    "next_n": (1, 2, 3, 4, 5, 6),
    "context": (0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 240, 255, 256, 257),
    "context next_n": ("-1", "+0", "+1"),
    "max_model_len": (40, 64, 256, 300, 1000),
    "lens": ("1d", "2d", "ragged"),
    "prefill rows": (0, 1, 16, 17),
    "page_pad": (0, 4, 16, 132),
    "offset beyond": ("2^31", "2^32"),
    "layout": ("auto", "normal", "shuffle"),
    "table tail": ("minus-one", "num-blocks", "huge"),
    "slots": ("int32", "int64", "shorter than k"),
    "slot -1": ("in front", "in the middle", "at the end"),
    "e4m3fn": ("ue8m0", "fp32"),
    "e4m3fnuz": ("ue8m0", "fp32"),
    **TENSORS,
}
SINGLE = ("gather padding", "ks above 0", "chunked prefill", "empty request", "all exact, scaled by a power of two")


def test_every_value_that_history_asks_for_is_drawn(samples: list[Case]) -> None:
    seen = Counter(fact for case in samples for fact in set(facts(case)))
    wanted = [f"{what} {value}" for what, values in WANTED.items() for value in values]
    assert [fact for fact in (*wanted, *SINGLE) if not seen[fact]] == []
    assert seen["all exact, scaled by a power of two"] > 0.6 * seen["all exact"] > SAMPLES * 0.1


def test_every_context_length_of_a_laptop_is_drawn_somewhere(samples: list[Case]) -> None:
    lengths = {length for case in samples for length in case.lengths}
    assert lengths >= set(range(strategies.SMALL.length + 1))
    assert len([length for length in lengths if length > strategies.MEDIUM.length]) > 50


def test_windows_are_empty_and_inverted(samples: list[Case]) -> None:
    """`empty_windows` draws rows with ks == ke and, where ks is above 0, ke < ks."""
    found = set()
    for case in samples[:400]:
        if case.batch.empty_windows and case.batch.prefill_rows > 0:
            tensors = materialise(case.replace(model={"num_heads": 1})).tensors
            found |= set((tensors["ke"] - tensors["ks"]).clamp(-1, 1).tolist())
    assert found == {-1, 0, 1}


def test_most_samples_are_small_and_all_are_affordable(samples: list[Case]) -> None:
    elements = sorted(case.batch.tokens * case.model.num_heads * case.model.head_dim for case in samples)
    assert elements[len(elements) // 2] <= 2 * strategies.SMALL.activations
    assert sum(elements) / len(elements) < strategies.LAPTOP.activations / 4
    assert strategies.LAPTOP.activations / 2 < elements[-1] <= 1 << 20
    assert len({case.id for case in samples}) > 0.99 * SAMPLES
    for case in samples:
        assert sum(case.batch.decode) * case.batch.next_n * case.model.num_heads <= 1 << 20
        assert case.batch.prefill_rows * case.batch.keys <= 1 << 21
        assert case.batch.decode_rows * case.batch.max_model_len <= 1 << 20


def production(case: Case) -> Iterator[str]:
    """The sizes at which engines run, and their beginnings."""
    longest, topk = max(case.lengths, default=0), case.model.index_topk
    yield from (f"context {size}" for size in (2048, 8192) if longest > size)
    yield from (f"topk {size}" for size in (512, 2048) if longest > topk >= size)
    yield from (f"batch {size}" for size in (256, 512) if len(case.batch.decode) > size)
    yield from (f"rows {size}" for size in (512, 1024) if case.batch.prefill_rows > size)
    if longest in (topk - 1, topk, topk + 1):
        yield f"topk {longest - topk:+}"
    if case.batch.tokens * case.model.num_heads >= 10240:
        yield "10240 rows of q"
    if case.batch.max_model_len > 4096:
        yield "max_model_len 4096"
    if case.cache.block_size == 640 <= longest:
        yield "a full page of 640"
    for name, preset in PRESETS.items():
        if case.model.model_copy(update={"fp8": preset.model.fp8}) == preset.model:
            yield f"the shape of {name}"
            if longest > topk:
                yield "a published shape beyond its topk"


def test_sizes_of_production_are_drawn(samples: list[Case]) -> None:
    seen = Counter(fact for case in samples for fact in production(case))
    expected = {
        "context 8192": 50,
        "topk 512": 60,
        "topk 2048": 40,
        "a published shape beyond its topk": 25,
        "batch 256": 5,
        "batch 512": 2,
        "rows 512": 2,
        "max_model_len 4096": 5,
    }
    expected |= {"10240 rows of q": 2, "a full page of 640": 5, "topk -1": 20, "topk +0": 20, "topk +1": 20}
    assert not {fact: seen[fact] for fact, least in expected.items() if seen[fact] < least}
    assert sum(seen[f"the shape of {name}"] for name in PRESETS) >= 0.09 * SAMPLES
    assert len({case.model.num_heads for case in samples if case.model.num_heads <= 64}) > 55
    assert sum(case.model.num_heads not in strategies.NUM_HEADS for case in samples) > 0.2 * SAMPLES
    assert len({case.model.index_topk for case in samples}) > 200
    assert len({case.cache.block_size for case in samples}) > 100


def free(case: Case) -> Iterator[str]:
    """What nothing but the contract limits, and no list names."""
    batch, memory = case.batch, case.memory
    holes = {"gather": batch.gather_holes, "select": batch.select_holes, "slot": batch.slot_holes}
    yield from (f"{name} holes {count}" for name, count in (holes | {"table": memory.missing_pages}).items())
    if not case.lengths:
        yield "nothing but padding"
    if len(case.lengths) > 1 and sorted(case.lengths)[-2] > strategies.LAPTOP.length:
        yield "two long requests"
    if len(batch.prefill) > 8:
        yield "many prefill requests"
    if any(p.new > 64 for p in batch.prefill) and batch.prefill_rows < 500:
        yield "more new tokens than listed"
    if batch.decode and 1 < batch.max_model_len - max(batch.decode) < 40:
        yield "some columns to spare"
    if memory.q_head_pad not in strategies.RARE_PADS:
        yield "heads any number of elements apart"
    for name in ("weights_head_pad", "q_weights_head_pad"):
        if getattr(memory, name):
            yield f"{name} of its own"


def test_what_no_list_names_is_drawn(samples: list[Case]) -> None:
    seen = Counter(fact for case in samples for fact in free(case))
    holes = [f"{name} holes {count}" for name in ("gather", "select", "slot", "table") for count in range(9)]
    assert not [fact for fact in holes if seen[fact] < 10]
    expected = {"nothing but padding": 80, "two long requests": 20, "many prefill requests": 40}
    expected |= {"more new tokens than listed": 20, "some columns to spare": 40}
    expected |= {"heads any number of elements apart": 100}
    expected |= {"weights_head_pad of its own": 400, "q_weights_head_pad of its own": 400}
    assert not {fact: seen[fact] for fact, least in expected.items() if seen[fact] < least}


def test_a_long_context_has_few_rows(samples: list[Case]) -> None:
    """Of a published shape: one row of it costs about what a case of many short requests does."""
    shapes = [preset.model for preset in PRESETS.values()]
    published = [case for case in samples if case.model.model_copy(update={"fp8": "e4m3fn"}) in shapes]
    long = [case for case in published if max(case.lengths, default=0) > 4096]
    assert len(long) > 10
    for case in long:
        products = [length * case.batch.next_n for length in case.batch.decode]
        products += [request.length * request.new for request in case.batch.prefill]
        assert sum(products) <= 1 << 15


def test_far_pages_lie_beyond_an_offset_whatever_a_key_takes(samples: list[Case]) -> None:
    far = [case for case in samples if case.cache.page_pad > FAR]
    assert {case.cache.scales for case in far} == {"fp32", "ue8m0", "mxfp4"}
    for case in far:
        stride = case.cache.page_pad + case.cache.block_size * case.token_bytes
        beyond = [case.cache.spare_blocks * stride - offset for offset in strategies.OFFSETS]
        assert any(0 <= bytes_ < 4 * case.cache.spare_blocks for bytes_ in beyond)


def test_every_form_of_scales_is_drawn_and_kept_inside(samples: list[Case]) -> None:
    packed = [case for case in samples if case.cache.scales == "ue8m0"]
    groups = Counter(case.model.head_dim // case.model.quant_group for case in packed)
    assert min(groups[1], groups[4]) > 0.03 * SAMPLES
    assert set(groups) == {1, 4}
    pairs = [case for case in samples if case.cache.scales == "mxfp4"]
    assert len(pairs) > 0.06 * SAMPLES
    assert all(case.has_scales for case in packed + pairs)


def test_constants_are_drawn_and_what_lies_beside_them() -> None:
    found: Counter[str] = Counter()
    for case in drawn(5000, strategies.cases(constants=(777,))):
        sizes = {"index_topk": case.model.index_topk, "context": max(case.lengths, default=0)}
        sizes |= {"head_rows": case.batch.tokens * case.model.num_heads, "keys": case.batch.keys}
        sizes |= {"max_model_len": case.batch.max_model_len, "num_blocks": case.num_blocks}
        found.update(f"{name} {value - 777:+}" for name, value in sizes.items() if abs(value - 777) < 2)
    offsets = ("-1", "+0", "+1")
    names = ("index_topk", "context", "keys", "max_model_len", "num_blocks")
    assert [f"{name} {d}" for name in names for d in offsets if not found[f"{name} {d}"]] == []
    assert sum(found[f"head_rows {d}"] for d in offsets)


def test_restrictions_hold() -> None:
    options = {"values": ("normal", "zeros"), "formats": ("e4m3fnuz",), "preset": PRESETS["deepseek-v3.2"]}
    for case in drawn(100, strategies.cases(**options, budget=strategies.SMALL)):
        assert case.model == PRESETS["deepseek-v3.2"].model.model_copy(update={"fp8": "e4m3fnuz"})
        assert case.cache.block_size in PRESETS["deepseek-v3.2"].block_sizes
        assert {getattr(case.values, name) for name in TENSORS} <= {"normal", "zeros"}
    assert {case.model.fp8 for case in drawn(50, strategies.cases(formats=("e4m3fnuz",)))} == {"e4m3fnuz"}


PLAINEST = Case().replace(model={"index_topk": 1}, batch={"decode": (0,)}, values=dict.fromkeys(TENSORS, "zeros"))


@pytest.mark.parametrize(
    ("wanted", "changes"),
    [
        (lambda c: True, {}),
        (
            lambda c: c.batch.next_n >= 3 and c.model.head_dim == 64 and max(c.batch.decode, default=0) >= 20,
            {
                "batch": {"next_n": 3, "decode": (31,), "max_model_len": 31},
                "model": {"head_dim": 64, "quant_group": 64},
            },
        ),
        (
            lambda c: c.cache.block_size == 48 and any(p.new >= 5 for p in c.batch.prefill) and c.memory.k_pad > 0,
            {
                "cache": {"block_size": 48},
                "batch": {"decode": (), "prefill": ({"length": 15, "new": 15},)},
                "memory": {"k_pad": 16},
            },
        ),
        (
            lambda c: c.values.q == "ties" and c.model.fp8 == "e4m3fnuz",
            {"model": {"fp8": "e4m3fnuz"}, "values": {"q": "ties"}},
        ),
    ],
)
def test_samples_shrink_to_the_plainest(wanted: Callable[[Case], bool], changes: dict[str, dict[str, object]]) -> None:
    """But for empty requests before and behind the one that matters: their number is not Hypothesis's to choose."""
    thorough = settings(
        database=None, deadline=None, derandomize=True, max_examples=3000, suppress_health_check=list(HealthCheck)
    )
    case = find(strategies.cases(), wanted, settings=thorough)
    decode = tuple(length for length in case.batch.decode if length) or case.batch.decode
    prefill = tuple(request for request in case.batch.prefill if request.length)
    assert case.replace(batch={"decode": decode, "prefill": prefill}) == PLAINEST.replace(**changes)
