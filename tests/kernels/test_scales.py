"""Scales that are UE8M0 exponents, four to a word: every launcher against the reference."""

import pytest
import torch

from indexfuzz.kernels.cache import k_quant_cache
from indexfuzz.kernels.fused import fused_k
from indexfuzz.kernels.gather import gather
from indexfuzz.kernels.mqa_logits import mqa_logits
from indexfuzz.kernels.paged_mqa_logits import paged_mqa_logits
from indexfuzz.reference import cache as cache_reference
from indexfuzz.reference import fp8 as codec
from indexfuzz.reference import layout as page_layout
from indexfuzz.reference import mqa_logits as mqa_reference
from indexfuzz.reference import paged_mqa_logits as paged_reference
from indexfuzz.reference.scales import pack

DIM, BLOCK, BLOCKS = 64, 16, 3
PACKED = {"scale_fmt": "ue8m0", "fp8": "e4m3fn", "layout": "auto", "scales": "ue8m0"}


def keys(rng):
    """Keys whose quarters differ by powers of two; one is zero in a quarter, one wholly."""
    k = torch.randn(20, DIM, generator=rng) * torch.logspace(-6, 3, 20)[:, None]
    k *= torch.tensor([1.0, 64.0, 1e-3, 4096.0]).repeat_interleave(DIM // 4)
    k[3], k[5, :16] = 0.0, 0.0
    return k.bfloat16()


@pytest.mark.parametrize("quant_group", [DIM, DIM // 4])
def test_every_byte_of_an_insertion_equals_the_reference(machine, rng, make_cache, quant_group):
    k, slots = keys(rng), torch.randperm(BLOCKS * BLOCK, generator=rng)[:20]
    got, want = make_cache(BLOCKS, BLOCK, DIM, pad=4), make_cache(BLOCKS, BLOCK, DIM, pad=4)
    k_quant_cache(k, got, slots, quant_group=quant_group, **PACKED)
    cache_reference.k_quant_cache(k, want, slots, quant_group=quant_group, **PACKED)
    assert torch.equal(got, want)
    words = page_layout.read_tokens(got, slots, "shuffle")[1].view(torch.int32)
    exponents = words.view(torch.uint8).view(-1, 4)
    assert bool((exponents == exponents[:, :1]).all()) == (quant_group == DIM)


@pytest.mark.parametrize("quant_group", [DIM, DIM // 4])
def test_the_fused_insertion_writes_what_the_single_one_does(machine, rng, make_cache, quant_group):
    """Keys of mean 0 and variance 1 in bf16, turned by no angle, are what the norm leaves of them."""
    k = torch.where(torch.rand(20, DIM, generator=rng) < 0.5, -1.0, 1.0)
    k[:, DIM // 2 :] = -k[:, : DIM // 2]
    slots = torch.randperm(BLOCKS * BLOCK, generator=rng)[:20]
    weight = torch.logspace(-3, 3, DIM, base=2)
    table = torch.cat([torch.ones(1, 8), torch.zeros(1, 8)], 1)
    got, want = make_cache(BLOCKS, BLOCK, DIM), make_cache(BLOCKS, BLOCK, DIM)
    rope = {"rope_dim": 16, "style": "neox", "placement": "first"}
    positions = torch.zeros(20, dtype=torch.int64)
    norm = (weight, torch.zeros(DIM))
    options = {"quant_group": quant_group, **PACKED}
    fused_k(k.bfloat16(), *norm, positions, table, got, slots, eps=1e-12, **rope, **options)
    k_quant_cache((k * weight).bfloat16(), want, slots, **options)
    assert torch.equal(got, want)


def test_words_are_gathered_as_they_are(machine, rng, make_cache):
    cache = make_cache(BLOCKS, BLOCK, DIM)
    page_layout.pages(cache).copy_(torch.randint(0, 256, (BLOCKS, BLOCK * (DIM + 4)), generator=rng))
    machine.declare("pages", page_layout.pages(cache), initialised=True)
    k_fp8, words = torch.zeros(9, DIM, dtype=torch.uint8), torch.zeros(9, dtype=torch.int32)
    table = torch.tensor([[2]], dtype=torch.int32)
    lens, owners = torch.tensor([0, 8], dtype=torch.int32), torch.tensor([0] * 8 + [-1], dtype=torch.int32)
    options = {"quant_group": DIM, "layout": "normal", "scales": "ue8m0"}
    gather(cache, table, lens, owners, k_fp8.view(torch.float8_e4m3fn), words, **options)
    stored = page_layout.read_tokens(cache, torch.arange(2 * BLOCK, 2 * BLOCK + 8), "normal")[1]
    assert torch.equal(words[:8], stored.view(torch.int32))
    assert words[8] == 0


def quantised(rng, integers, fp8_integers, fp8):
    """Small integers, and scales of their quarters from 2^-2 to 2^2: every dot is exact."""
    words = pack(2.0 ** torch.randint(-2, 3, (21, 4), generator=rng).float())
    return fp8_integers(9, 3, DIM, fp8=fp8), fp8_integers(21, DIM, fp8=fp8), words, integers(9, 3)


@pytest.mark.parametrize("fp8", ["e4m3fn", "e4m3fnuz"])
def test_prefill_logits_scale_every_quarter(rng, integers, fp8_integers, fp8):
    q, k, words, weights = quantised(rng, integers, fp8_integers, fp8)
    ks, ke = torch.zeros(9, dtype=torch.int32), torch.arange(9, dtype=torch.int32) + 13
    got, want = torch.empty(9, 21), torch.empty(9, 21)
    mqa_logits(q, k, words, weights, ks, ke, got)
    mqa_reference.mqa_logits(q, k, words, weights, ks, ke, want)
    assert torch.equal(got, want)


@pytest.mark.parametrize("layout", ["normal", "shuffle"])
def test_paged_logits_scale_every_quarter(machine, rng, integers, fp8_integers, make_cache, layout):
    q, k, words, weights = quantised(rng, integers, fp8_integers, "e4m3fn")
    cache = make_cache(BLOCKS, BLOCK, DIM)
    page_layout.write_tokens(cache, torch.arange(21), codec.codes(k), words, layout)
    machine.declare("pages", page_layout.pages(cache), initialised=True)
    lens, table = torch.full((9,), 21, dtype=torch.int32), torch.tensor([[0, 1]] * 9, dtype=torch.int32)
    got, want = torch.empty(9, 30), torch.empty(9, 30)
    arguments = (q[:, None], cache, weights, lens, table)
    paged_mqa_logits(*arguments, got, layout=layout, scales="ue8m0")
    paged_reference.paged_mqa_logits(*arguments, want, layout=layout, scales="ue8m0")
    assert torch.equal(got, want)


def test_the_ends_of_exponents(integers, fp8_integers):
    """Byte 0 is 2^-127, and 255 is NaN, which the ReLU takes for 0."""
    q, k = fp8_integers(1, 1, DIM), codec.as_fp8(torch.full((2, DIM), 0x38, dtype=torch.uint8), "e4m3fn")
    q.view(torch.uint8)[:] = 0x38
    words = torch.tensor([0, -1], dtype=torch.int32)
    window = torch.zeros(1, dtype=torch.int32), torch.full((1,), 2, dtype=torch.int32)
    got = torch.empty(1, 2)
    mqa_logits(q, k, words, torch.full((1, 1), 2.0**30), *window, got)
    assert got.tolist() == [[DIM * 2.0**-97, 0.0]]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"scales": "e8m0"}, "scales must be one of fp32, ue8m0, mxfp4"),
        ({"scales": "mxfp4"}, "quant_group must be 16, got 64"),
        ({"quant_group": DIM // 2}, "quant_group must be 64 or 16, got 32"),
        ({"scale_fmt": "fp32"}, 'UE8M0 scales need scale_fmt "ue8m0"'),
        ({"scales": "fp32", "quant_group": DIM // 4}, "quant_group must equal head_dim"),
    ],
)
def test_what_cannot_be_stored_is_refused(make_cache, options, sentence):
    arguments = (torch.zeros(1, DIM).bfloat16(), make_cache(1, BLOCK, DIM), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match=sentence):
        k_quant_cache(*arguments, **PACKED | {"quant_group": DIM} | options)


def test_scales_of_another_dtype_are_refused(fp8_integers, make_cache):
    k, none = fp8_integers(1, DIM), torch.zeros(1, dtype=torch.int32)
    table = torch.zeros(1, 1, dtype=torch.int32)
    options = {"quant_group": DIM, "layout": "auto", "scales": "ue8m0"}
    with pytest.raises(ValueError, match="k_scale must be int32, got float32"):
        gather(make_cache(1, BLOCK, DIM), table, torch.tensor([0, 1]).int(), none, k, torch.zeros(1), **options)
