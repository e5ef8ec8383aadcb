"""Keys in MXFP4: every launcher against the reference."""

import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.kernels.cache import k_quant_cache
from indexfuzz.kernels.fused import fused_k
from indexfuzz.kernels.gather import gather
from indexfuzz.kernels.mqa_logits import mqa_logits
from indexfuzz.kernels.nibbles import decode_pairs, encode_pairs
from indexfuzz.kernels.paged_mqa_logits import paged_mqa_logits
from indexfuzz.reference import cache as cache_reference
from indexfuzz.reference import fp8, nibbles
from indexfuzz.reference import layout as page_layout
from indexfuzz.reference import mqa_logits as mqa_reference
from indexfuzz.reference import paged_mqa_logits as paged_reference
from indexfuzz.reference.scales import pack

DIM, BLOCK, BLOCKS = 64, 32, 3
LAYOUTS = page_layout.CONCRETE
BYTES = DIM // 2
MXFP4 = {"scale_fmt": "ue8m0", "fp8": "e4m3fn", "quant_group": DIM // 4, "layout": "auto", "scales": "mxfp4"}


@triton.jit
def _encode(x_ptr, packed_ptr, COUNT: tl.constexpr):
    row = tl.program_id(0) * COUNT
    packed = encode_pairs(tl.load(x_ptr + row + tl.arange(0, COUNT)[None, :]))
    tl.store(packed_ptr + row // 2 + tl.arange(0, COUNT // 2)[None, :], packed)


@triton.jit
def _decode(packed_ptr, x_ptr, COUNT: tl.constexpr):
    packed = tl.load(packed_ptr + tl.arange(0, COUNT)[None, :])
    tl.store(x_ptr + tl.arange(0, 2 * COUNT)[None, :], decode_pairs(packed))


def test_every_bf16_value_up_to_the_largest_is_rounded_as_the_reference_does():
    bits = torch.arange(1 << 16, dtype=torch.int32) << 16
    x = bits.view(torch.float32)
    x = torch.where(x.abs() <= 6, x, 0.0)
    packed = torch.zeros(1 << 15, dtype=torch.uint8)
    _encode[(16,)](x, packed, 1 << 12)
    assert torch.equal(nibbles.widen(packed), nibbles.nearest(x))


def test_every_byte_stands_for_the_two_numbers_of_the_reference():
    packed, x = torch.arange(256, dtype=torch.uint8), torch.zeros(512)
    _decode[(1,)](packed, x, 256)
    assert torch.equal(x, fp8.decode(nibbles.widen(packed), nibbles.WIDE))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_byte_of_an_insertion_equals_the_reference(machine, rng, make_cache, layout):
    k = torch.randn(20, DIM, generator=rng) * torch.logspace(-6, 3, 20)[:, None]
    k *= torch.tensor([1.0, 64.0, 1e-3, 4096.0]).repeat_interleave(DIM // 4)
    k[3], k[5, :16] = 0.0, 0.0
    k, slots = k.bfloat16(), torch.randperm(BLOCKS * BLOCK, generator=rng)[:20]
    got, want = make_cache(BLOCKS, BLOCK, BYTES, pad=4), make_cache(BLOCKS, BLOCK, BYTES, pad=4)
    options = MXFP4 | {"layout": layout}
    k_quant_cache(k, got, slots, **options)
    cache_reference.k_quant_cache(k, want, slots, **options)
    for cache in (got, want):
        values, words = page_layout.read_tokens(cache, slots, layout)
        page_layout.write_tokens(cache, slots, nibbles.narrow(nibbles.widen(values)), words, layout)
    assert torch.equal(got, want)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_fused_insertion_writes_what_the_single_one_does(machine, rng, make_cache, layout):
    """Keys of mean 0 and variance 1 in bf16, turned by no angle, are what the norm leaves of them."""
    k = torch.where(torch.rand(20, DIM, generator=rng) < 0.5, -1.0, 1.0)
    k[:, DIM // 2 :] = -k[:, : DIM // 2]
    slots = torch.randperm(BLOCKS * BLOCK, generator=rng)[:20]
    weight, table = torch.logspace(-3, 3, DIM, base=2), torch.cat([torch.ones(1, 8), torch.zeros(1, 8)], 1)
    got, want = make_cache(BLOCKS, BLOCK, BYTES), make_cache(BLOCKS, BLOCK, BYTES)
    turned = {"rope_dim": 16, "style": "neox", "placement": "first", "eps": 1e-12}
    positions, options = torch.zeros(20, dtype=torch.int64), MXFP4 | {"layout": layout}
    fused_k(k.bfloat16(), weight, torch.zeros(DIM), positions, table, got, slots, **turned, **options)
    k_quant_cache((k * weight).bfloat16(), want, slots, **options)
    assert torch.equal(got, want)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bytes_are_gathered_as_they_are(machine, rng, make_cache, layout):
    cache = make_cache(BLOCKS, BLOCK, BYTES)
    page_layout.pages(cache).copy_(torch.randint(0, 256, (BLOCKS, BLOCK * (BYTES + 4)), generator=rng))
    machine.declare("pages", page_layout.pages(cache), initialised=True)
    keys, words = torch.zeros(25, BYTES, dtype=torch.uint8), torch.zeros(25, dtype=torch.int32)
    table = torch.tensor([[2]], dtype=torch.int32)
    lens, owners = torch.tensor([0, 24], dtype=torch.int32), torch.tensor([0] * 24 + [-1], dtype=torch.int32)
    gather(cache, table, lens, owners, keys, words, quant_group=DIM // 4, layout=layout, scales="mxfp4")
    values, stored = page_layout.read_tokens(cache, torch.arange(2 * BLOCK, 2 * BLOCK + 24), layout)
    assert torch.equal(keys[:24], values)
    assert torch.equal(words[:24], stored.view(torch.int32))
    assert not keys[24].any()


def packed_keys(rng):
    """All numbers that there are, and scales of their quarters from 2^-2 to 2^2: every dot with integers is exact."""
    words = pack(2.0 ** torch.randint(-2, 3, (21, 4), generator=rng).float())
    return torch.randint(0, 256, (21, BYTES), generator=rng).to(torch.uint8), words


@pytest.mark.parametrize("form", ["e4m3fn", "e4m3fnuz"])
def test_prefill_logits(rng, integers, fp8_integers, form):
    q, weights, (k, words) = fp8_integers(9, 3, DIM, fp8=form), integers(9, 3), packed_keys(rng)
    ks, ke = torch.zeros(9, dtype=torch.int32), torch.arange(9, dtype=torch.int32) + 13
    got, want = torch.empty(9, 21), torch.empty(9, 21)
    mqa_logits(q, k, words, weights, ks, ke, got)
    mqa_reference.mqa_logits(q, k, words, weights, ks, ke, want)
    assert torch.equal(got, want)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_paged_logits(machine, rng, integers, fp8_integers, make_cache, layout):
    q, weights, (k, words) = fp8_integers(9, 3, DIM), integers(9, 3), packed_keys(rng)
    cache = make_cache(BLOCKS, BLOCK, BYTES)
    page_layout.write_tokens(cache, torch.arange(21), k, words, layout)
    machine.declare("pages", page_layout.pages(cache), initialised=True)
    lens, table = torch.full((9,), 21, dtype=torch.int32), torch.tensor([[0, 1]] * 9, dtype=torch.int32)
    got, want = torch.empty(9, 30), torch.empty(9, 30)
    arguments = (q[:, None], cache, weights, lens, table)
    paged_mqa_logits(*arguments, got, layout=layout, scales="mxfp4")
    paged_reference.paged_mqa_logits(*arguments, want, layout=layout, scales="mxfp4")
    assert torch.equal(got, want)


def test_keys_without_exponents_are_refused(fp8_integers):
    window = torch.zeros(1, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
    keys = torch.zeros(1, BYTES, dtype=torch.uint8)
    with pytest.raises(ValueError, match="k_scale must be int32, got float32"):
        mqa_logits(fp8_integers(1, 1, DIM), keys, torch.ones(1), torch.ones(1, 1), *window, torch.empty(1, 1))
