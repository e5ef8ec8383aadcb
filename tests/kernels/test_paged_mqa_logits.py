import pytest
import torch

from indexfuzz.kernels.paged_mqa_logits import paged_mqa_logits
from indexfuzz.reference import fp8 as codec
from indexfuzz.reference import layout as page_layout
from indexfuzz.reference.paged_mqa_logits import paged_mqa_logits as reference


@pytest.fixture
def draw(rng, integers, fp8_integers, make_cache):
    """Arguments whose logits are exact; slots that no sequence owns hold NaN codes, unused table columns ``tail``."""

    def arguments(
        lens,
        *,
        next_n=1,
        heads=4,
        head_dim=32,
        block_size=16,
        layout="auto",
        max_model_len=100,
        pad=0,
        tail=-1,
        fp8="e4m3fn",
    ):
        context_lens = torch.tensor(lens, dtype=torch.int32)
        batch = len(lens)
        longest = [int(context_lens[b].max()) for b in range(batch)]
        needed = [-(-length // block_size) for length in longest]
        num_blocks = sum(needed) + 1
        table = torch.full((batch, max([1, *needed])), tail, dtype=torch.int32)
        pages = torch.randperm(num_blocks, generator=rng).int()
        cache = make_cache(num_blocks, block_size, head_dim, pad=pad)
        page_layout.pages(cache).fill_(codec.FORMATS[fp8].nan_code)
        concrete = page_layout.resolve(layout, block_size)
        for b, count in enumerate(needed):
            table[b, :count], pages = pages[:count], pages[count:]
            position = torch.arange(longest[b])
            slots = table[b].long()[position // block_size] * block_size + position % block_size
            values = codec.codes(fp8_integers(longest[b], head_dim, fp8=fp8))
            page_layout.write_tokens(cache, slots, values, torch.exp2(integers(longest[b])), concrete)
        return {
            "q_fp8": fp8_integers(batch, next_n, heads, head_dim, fp8=fp8),
            "cache": cache,
            "weights": integers(batch * next_n, heads) * 0.5,
            "context_lens": context_lens,
            "block_table": table,
            "logits": torch.full((batch * next_n, max_model_len), 7.0),
            "layout": layout,
        }

    return arguments


def assert_scored(machine, arguments):
    machine.declare("pages", page_layout.pages(arguments["cache"]), initialised=True)
    machine.declare("block_table", arguments["block_table"], initialised=True)
    want = torch.full_like(arguments["logits"], 7.0)
    reference(**(arguments | {"logits": want}))
    paged_mqa_logits(**arguments)
    assert torch.equal(arguments["logits"], want)


@pytest.mark.parametrize("heads", [1, 6, 12, 16, 24, 64, 128])
@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_heads_and_dims(machine, draw, heads, head_dim):
    assert_scored(machine, draw([33, 7], next_n=2, heads=heads, head_dim=head_dim, max_model_len=40))


@pytest.mark.parametrize(
    ("layout", "block_size"),
    [
        ("auto", 1),
        ("normal", 2),
        ("normal", 8),
        ("normal", 64),
        ("auto", 16),
        ("shuffle", 48),
        ("auto", 64),
        ("auto", 640),
    ],
)
@pytest.mark.parametrize(("fp8", "pad"), [("e4m3fn", 0), ("e4m3fn", 132), ("e4m3fnuz", 16)])
def test_layouts_and_page_strides(machine, draw, layout, block_size, fp8, pad):
    assert_scored(machine, draw([70, 1, 64], layout=layout, block_size=block_size, fp8=fp8, pad=pad))


@pytest.mark.parametrize("next_n", [1, 2, 3, 4, 5, 6])
def test_lens_shorter_than_next_n(machine, draw, next_n):
    assert_scored(machine, draw([0, 1, next_n - 1, next_n, next_n + 1, 66], next_n=next_n, max_model_len=67))


def test_lens_per_row(machine, draw):
    lens = [[0, 0, 0], [5, 6, 7], [64, 1, 65], [0, 90, 3], [17, 16, 15]]
    assert_scored(machine, draw(lens, next_n=3))


def test_sliced_lens(machine, draw):
    arguments = draw([[5, 6], [40, 39]], next_n=2)
    wide = torch.full((2, 6), 2**30, dtype=torch.int32)
    wide[:, ::3] = arguments["context_lens"]
    assert_scored(machine, arguments | {"context_lens": wide[:, ::3]})
    arguments = draw([12, 70])
    wide[:, 1] = arguments["context_lens"]
    assert_scored(machine, arguments | {"context_lens": wide[:, 1]})


@pytest.mark.parametrize("max_model_len", [1, 40, 63, 65, 300])
def test_every_column_is_written(machine, draw, max_model_len):
    assert_scored(machine, draw([min(33, max_model_len), 0, 1], next_n=2, max_model_len=max_model_len))


@pytest.mark.parametrize("lens", [[-3, 50], [[-1, 3], [51, 2**31 - 1]]])
def test_lens_are_clamped(machine, draw, lens):
    arguments = draw([50, 50], next_n=2, max_model_len=50)
    arguments["context_lens"] = torch.tensor(lens, dtype=torch.int32)
    assert_scored(machine, arguments)


@pytest.mark.parametrize("tail", [-1, 10**6, 2**30])
def test_tail_of_a_sliced_table_of_odd_width(machine, draw, widen, tail):
    arguments = draw([257, 3], block_size=64, max_model_len=300, tail=tail)
    assert arguments["block_table"].shape[1] == 5
    arguments["block_table"] = widen(arguments["block_table"])
    assert_scored(machine, arguments)


def test_strided_rows(machine, draw, widen):
    arguments = draw([33, 7], next_n=2, heads=6)
    q, weights, logits = arguments["q_fp8"], arguments["weights"], arguments["logits"]
    arguments["q_fp8"] = widen(codec.codes(q)).view(q.dtype)
    arguments["weights"], arguments["logits"] = widen(weights, 3), widen(logits, 5)
    for name in ("q_fp8", "weights", "logits"):
        machine.declare(name, arguments[name], initialised=True)
    assert_scored(machine, arguments)


def test_only_slots_inside_the_window_are_read(machine, draw):
    lens = [40, 3, 0, 35]
    arguments = draw(lens, next_n=2, layout="normal", max_model_len=40)
    arguments["context_lens"][0] = 45  # beyond max_model_len
    pages = page_layout.pages(arguments["cache"])
    for table, length in zip(arguments["block_table"].tolist(), lens, strict=True):
        for first in range(0, length, 16):
            block, count = table[first // 16], min(16, length - first)
            machine.declare(f"values of page {block}", pages[block, : 32 * count])
            machine.declare(f"scales of page {block}", pages[block, 32 * 16 :][: 4 * count])
    want = torch.empty_like(arguments["logits"])
    reference(**(arguments | {"logits": want}))
    paged_mqa_logits(**arguments)
    assert torch.equal(arguments["logits"], want)


@pytest.mark.parametrize("block", [-1, 10**6])
def test_a_position_without_a_page_is_not_visible(draw, block):
    arguments = draw([40], max_model_len=50)
    whole = torch.empty_like(arguments["logits"])
    paged_mqa_logits(**(arguments | {"logits": whole}))
    arguments["block_table"][0, 1] = block
    paged_mqa_logits(**arguments)
    whole[:, 16:32] = float("-inf")
    assert torch.equal(arguments["logits"], whole)


def test_a_table_too_narrow_is_never_read_past_its_row(machine, draw, widen):
    arguments = draw([40], max_model_len=50)
    whole = torch.empty_like(arguments["logits"])
    paged_mqa_logits(**(arguments | {"logits": whole}))
    arguments["block_table"] = widen(arguments["block_table"][:, :2])
    machine.declare("block_table", arguments["block_table"], initialised=True)
    paged_mqa_logits(**arguments)
    whole[:, 32:] = float("-inf")
    assert torch.equal(arguments["logits"], whole)


def test_offsets_beyond_2_gib(far_cache, integers, fp8_integers):
    keys = codec.codes(fp8_integers(16, 32))
    page_layout.write_tokens(far_cache, torch.arange(128, 144), keys, torch.exp2(integers(16)), "shuffle")
    arguments = {
        "q_fp8": fp8_integers(1, 1, 4, 32),
        "cache": far_cache,
        "weights": integers(1, 4),
        "context_lens": torch.tensor([16], dtype=torch.int32),
        "block_table": torch.tensor([[8]], dtype=torch.int32),
        "logits": torch.empty(1, 20),
        "layout": "auto",
    }
    want = torch.empty(1, 20)
    reference(**(arguments | {"logits": want}))
    paged_mqa_logits(**arguments)
    assert torch.equal(arguments["logits"], want)


@pytest.mark.parametrize("max_model_len", [0, 30])
def test_empty_batch(machine, draw, max_model_len):
    assert_scored(machine, draw([], max_model_len=max_model_len))


def test_no_columns(machine, draw):
    assert_scored(machine, draw([0, 0], max_model_len=0))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"q_fp8": torch.zeros(2, 1, 129, 32, dtype=torch.float8_e4m3fn)}, "num_heads must be 1 to 128, got 129"),
        ({"q_fp8": torch.zeros(2, 1, 3, 16, dtype=torch.float8_e4m3fn)}, "head_dim must be 32, 64 or 128, got 16"),
        ({"q_fp8": torch.zeros(2, 1, 3, 32)}, "q_fp8 must be float8_e4m3fn or float8_e4m3fnuz, got float32"),
        ({"cache": torch.zeros(2, 8, 36, dtype=torch.uint8)}, "SHUFFLE layout needs"),
        ({"layout": "interleaved"}, "layout must be one of auto, normal, shuffle"),
        ({"weights": torch.zeros(1, 3)}, r"weights must have shape \[2, 3\], got \[1, 3\]"),
        (
            {"context_lens": torch.zeros(3, dtype=torch.int32)},
            r"context_lens must be int32 or int64 \[2\] or \[2, 1\], got",
        ),
        (
            {"context_lens": torch.zeros(2, 2, dtype=torch.int32)},
            r"context_lens must be int32 or int64 \[2\] or \[2, 1\], got",
        ),
        (
            {"context_lens": torch.zeros(2, dtype=torch.int16)},
            r"context_lens must be int32 or int64 \[2\] or \[2, 1\], got",
        ),
        (
            {"block_table": torch.zeros(1, 2, dtype=torch.int32)},
            r"block_table must have shape \[2, any\], got \[1, 2\]",
        ),
        ({"logits": torch.zeros(3, 9)}, r"logits must have shape \[2, any\], got \[3, 9\]"),
    ],
)
def test_contract(change, sentence):
    arguments = {
        "q_fp8": torch.zeros(2, 1, 3, 32, dtype=torch.float8_e4m3fn),
        "cache": torch.zeros(2, 16, 36, dtype=torch.uint8),
        "weights": torch.zeros(2, 3),
        "context_lens": torch.zeros(2, dtype=torch.int32),
        "block_table": torch.zeros(2, 2, dtype=torch.int32),
        "logits": torch.zeros(2, 9),
        "layout": "auto",
    }
    with pytest.raises(ValueError, match=sentence):
        paged_mqa_logits(**(arguments | change))
