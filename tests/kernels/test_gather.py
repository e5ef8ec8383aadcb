import pytest
import torch

from indexfuzz.kernels.gather import gather
from indexfuzz.reference import fp8 as codec
from indexfuzz.reference import layout as page_layout
from indexfuzz.reference.gather import gather as reference

BYTES = {"e4m3fn": torch.float8_e4m3fn, "e4m3fnuz": torch.float8_e4m3fnuz}


def fill(cache, rng):
    """Every byte of every page random: all 256 FP8 codes, and scales of any bits."""
    pages = page_layout.pages(cache)
    pages.copy_(torch.randint(0, 256, pages.shape, generator=rng, dtype=torch.uint8))
    return cache


def batch(rng, lengths, *, num_blocks, block_size, width=None, pad=0, tail=-1):
    """Block table of distinct pages, cu_seqlens and token_to_seq of sequences; ``tail`` fills unused columns."""
    needed = [-(-length // block_size) for length in lengths]
    width = max([1, *needed]) if width is None else width
    table = torch.full((len(lengths), width), tail, dtype=torch.int32)
    pages = torch.randperm(num_blocks, generator=rng).int()
    for row, count in enumerate(needed):
        table[row, :count], pages = pages[:count], pages[count:]
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    token_to_seq = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.int64)).int()
    return table, cu_seqlens, torch.cat([token_to_seq, torch.full((pad,), -1, dtype=torch.int32)])


def assert_gathered(machine, cache, table, cu_seqlens, token_to_seq, *, layout="auto", fp8="e4m3fn"):
    tokens, head_dim = len(token_to_seq), cache.shape[2] - 4
    machine.declare("pages", page_layout.pages(cache), initialised=True)
    machine.declare("block_table", table, initialised=True)
    got_k, want_k = (torch.full((tokens, head_dim), 0x5A, dtype=torch.uint8) for _ in range(2))
    got_scale, want_scale = torch.full((tokens,), 7.0), torch.full((tokens,), 7.0)
    options = {"quant_group": head_dim, "layout": layout}
    gather(cache, table, cu_seqlens, token_to_seq, got_k.view(BYTES[fp8]), got_scale, **options)
    reference(cache, table, cu_seqlens, token_to_seq, want_k.view(BYTES[fp8]), want_scale, **options)
    assert torch.equal(got_k, want_k)
    assert torch.equal(got_scale.view(torch.int32), want_scale.view(torch.int32))
    return codec.codes(got_k), got_scale


@pytest.mark.parametrize(
    ("layout", "block_size"),
    [("auto", 1), ("normal", 2), ("normal", 64), ("auto", 16), ("shuffle", 48), ("auto", 128), ("auto", 640)],
)
@pytest.mark.parametrize("head_dim", [32, 128])
@pytest.mark.parametrize("pad", [0, 132])
def test_every_byte_equals_the_reference(machine, rng, make_cache, layout, block_size, head_dim, pad):
    lengths = [17, 0, 33]
    num_blocks = sum(-(-length // block_size) for length in lengths) + 1
    cache = fill(make_cache(num_blocks, block_size, head_dim, pad=pad), rng)
    assert_gathered(machine, cache, *batch(rng, lengths, num_blocks=num_blocks, block_size=block_size), layout=layout)


@pytest.mark.parametrize("fp8", list(BYTES))
def test_padding_is_zero_bytes_and_scale_0(machine, rng, make_cache, fp8):
    cache = fill(make_cache(6, 16, 32), rng)
    table, cu_seqlens, token_to_seq = batch(rng, [5, 20], num_blocks=6, block_size=16, pad=9)
    token_to_seq[-4:] = torch.tensor([0, 1, 2, 2**31 - 1], dtype=torch.int32)
    k, scale = assert_gathered(machine, cache, table, cu_seqlens, token_to_seq, fp8=fp8)
    assert not k[25:].any()
    assert not scale[25:].any()


@pytest.mark.parametrize("block", [-1, 6, 2**30, -(2**31)])
def test_block_outside_the_pool_is_padding(machine, rng, make_cache, block):
    cache = fill(make_cache(6, 16, 32, pad=16), rng)
    table, cu_seqlens, token_to_seq = batch(rng, [40], num_blocks=6, block_size=16)
    table[0, 1] = block
    k, _ = assert_gathered(machine, cache, table, cu_seqlens, token_to_seq)
    assert not k[16:32].any()


@pytest.mark.parametrize("tail", [-1, 6, 2**30])
def test_unused_tail_of_a_sliced_table_of_odd_width(machine, rng, make_cache, widen, tail):
    cache = fill(make_cache(6, 16, 32), rng)
    table, cu_seqlens, token_to_seq = batch(rng, [33, 1], num_blocks=6, block_size=16, width=5, tail=tail)
    assert_gathered(machine, cache, widen(table), cu_seqlens, token_to_seq)


def test_table_too_narrow_is_never_read_past_its_row(machine, rng, make_cache, widen):
    cache = fill(make_cache(6, 16, 32), rng)
    table, cu_seqlens, token_to_seq = batch(rng, [33], num_blocks=6, block_size=16)
    assert_gathered(machine, cache, widen(table[:, :2]), cu_seqlens, token_to_seq)


def test_no_sequences(machine, rng, make_cache):
    cache = fill(make_cache(2, 16, 32), rng)
    k, scale = assert_gathered(machine, cache, *batch(rng, [], num_blocks=2, block_size=16, pad=3))
    assert not k.any()
    assert not scale.any()


def test_no_tokens(machine, rng, make_cache):
    cache = fill(make_cache(2, 16, 32), rng)
    assert_gathered(machine, cache, *batch(rng, [0, 0], num_blocks=2, block_size=16))


def test_offsets_beyond_2_gib(rng, far_cache):
    page_layout.pages(far_cache)[8] = torch.randint(0, 256, (16 * 36,), generator=rng, dtype=torch.uint8)
    k, scale = torch.empty(16, 32, dtype=torch.float8_e4m3fn), torch.empty(16)
    table, cu_seqlens, seqs = torch.tensor([[8]]).int(), torch.tensor([0, 16]).int(), torch.zeros(16).int()
    gather(far_cache, table, cu_seqlens, seqs, k, scale, quant_group=32, layout="auto")
    values, scales = page_layout.read_tokens(far_cache, torch.arange(128, 144), "shuffle")
    assert torch.equal(codec.codes(k), values)
    assert torch.equal(scale.view(torch.int32), scales.view(torch.int32))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"k_fp8": torch.zeros(4, 32, dtype=torch.uint8)}, "k_fp8 must be float8_e4m3fn or float8_e4m3fnuz, got uint8"),
        ({"k_fp8": torch.zeros(4, 16, dtype=torch.float8_e4m3fn)}, "head_dim must be 32, 64 or 128, got 16"),
        ({"quant_group": 64}, "quant_group must equal head_dim 32, got 64"),
        ({"cache": torch.zeros(2, 8, 36, dtype=torch.uint8)}, "SHUFFLE layout needs"),
        ({"block_table": torch.zeros(1, 2, dtype=torch.int16)}, "block_table must be int32 or int64, got int16"),
        ({"cu_seqlens": torch.zeros(1, dtype=torch.int32)}, r"cu_seqlens must have shape \[2\], got \[1\]"),
        ({"token_to_seq": torch.zeros(3, dtype=torch.int32)}, r"token_to_seq must have shape \[4\], got \[3\]"),
        ({"k_scale": torch.zeros(4, 1)}, r"k_scale must have shape \[4\], got \[4, 1\]"),
        ({"k_scale": torch.zeros(8)[::2]}, "k_scale must be dense in its last dim"),
    ],
)
def test_contract(change, sentence):
    arguments = {
        "cache": torch.zeros(2, 16, 36, dtype=torch.uint8),
        "block_table": torch.zeros(1, 2, dtype=torch.int32),
        "cu_seqlens": torch.tensor([0, 4], dtype=torch.int32),
        "token_to_seq": torch.zeros(4, dtype=torch.int32),
        "k_fp8": torch.zeros(4, 32, dtype=torch.float8_e4m3fn),
        "k_scale": torch.zeros(4),
        "quant_group": 32,
        "layout": "auto",
    }
    with pytest.raises(ValueError, match=sentence):
        gather(**(arguments | change))
