import pytest
import torch

from indexfuzz.kernels.cache import k_quant_cache
from indexfuzz.reference import layout as page_layout
from indexfuzz.reference.cache import k_quant_cache as reference

PAGES = [
    ("auto", 1),
    ("normal", 1),
    ("normal", 2),
    ("normal", 24),
    ("normal", 64),
    ("auto", 16),
    ("shuffle", 48),
    ("auto", 64),
    ("shuffle", 128),
    ("auto", 640),
]


def all_bytes(cache):
    return torch.empty(0, dtype=torch.uint8).set_(cache.untyped_storage())


def assert_written(make_cache, machine, k, slots, *, num_blocks, block_size, pad=0, **options):
    head_dim = k.shape[1]
    options = {"scale_fmt": "ue8m0", "fp8": "e4m3fn", "quant_group": head_dim} | options
    got = make_cache(num_blocks, block_size, head_dim, pad=pad)
    want = make_cache(num_blocks, block_size, head_dim, pad=pad)
    machine.declare("pages", page_layout.pages(got), initialised=True)
    k_quant_cache(k, got, slots, **options)
    reference(k, want, slots, **options)
    assert torch.equal(all_bytes(got), all_bytes(want))
    return got


@pytest.mark.parametrize(("layout", "block_size"), PAGES)
@pytest.mark.parametrize("head_dim", [32, 128])
def test_every_byte_equals_the_reference(machine, rng, make_cache, layout, block_size, head_dim):
    num_blocks = max(2, 40 // block_size)
    slots = torch.randperm(num_blocks * block_size, generator=rng)[:19]
    k = torch.randn(19, head_dim, generator=rng).bfloat16()
    assert_written(make_cache, machine, k, slots, num_blocks=num_blocks, block_size=block_size, layout=layout)


@pytest.mark.parametrize("scale_fmt", ["ue8m0", "fp32"])
@pytest.mark.parametrize("fp8", ["e4m3fn", "e4m3fnuz"])
@pytest.mark.parametrize("pad", [0, 16, 132])
def test_formats_and_page_strides(machine, rng, make_cache, scale_fmt, fp8, pad):
    k = torch.randn(20, 64, generator=rng).bfloat16() * torch.logspace(-6, 3, 20)[:, None].bfloat16()
    k[3] = 0.0
    slots = torch.randperm(48, generator=rng)[:20]
    assert_written(
        make_cache, machine, k, slots, num_blocks=3, block_size=16, pad=pad, scale_fmt=scale_fmt, fp8=fp8, layout="auto"
    )


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize(
    "slots",
    [[-1, 3, 17, 5], [3, -1, 17, 5], [3, 17, 5, -1], [-1, -1, -1, -1], [-(2**31), 3, -17, 0], [3, 17], []],
)
def test_padding_is_skipped(machine, rng, make_cache, slots, dtype):
    k = torch.randn(4, 32, generator=rng).bfloat16()
    slot_mapping = torch.tensor(slots, dtype=dtype)
    assert_written(make_cache, machine, k, slot_mapping, num_blocks=2, block_size=16, layout="auto")


def test_column_slice_of_k(machine, rng, make_cache, widen):
    k = widen(torch.randn(18, 64, generator=rng).bfloat16(), 3)
    machine.declare("k", k, initialised=True)
    assert_written(make_cache, machine, k, torch.arange(18), num_blocks=18, block_size=1, layout="auto")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_offsets_beyond_2_gib(rng, far_cache, dtype):
    k = torch.randn(2, 32, generator=rng).bfloat16()
    near, far = torch.tensor([0, 15]), torch.tensor([128, 143])
    options = {"scale_fmt": "ue8m0", "fp8": "e4m3fn", "quant_group": 32, "layout": "auto"}
    k_quant_cache(k, far_cache, far.to(dtype), **options)
    values, scales = page_layout.read_tokens(far_cache, far, "shuffle")
    near_cache = torch.zeros(1, 16, 36, dtype=torch.uint8)
    reference(k, near_cache, near, **options)
    want_values, want_scales = page_layout.read_tokens(near_cache, near, "shuffle")
    assert torch.equal(values, want_values)
    assert torch.equal(scales, want_scales)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"k": torch.zeros(4, 100).bfloat16()}, "head_dim must be 32, 64 or 128, got 100"),
        ({"quant_group": 16}, "quant_group must equal head_dim 32, got 16"),
        ({"layout": "shuffle", "cache": torch.zeros(2, 8, 36, dtype=torch.uint8)}, "SHUFFLE layout needs"),
        ({"layout": "auto", "cache": torch.zeros(2, 24, 36, dtype=torch.uint8)}, "SHUFFLE layout needs"),
        ({"cache": torch.zeros(2, 16, 32, dtype=torch.uint8)}, r"cache must have shape \[any, any, 36\]"),
        ({"cache": torch.zeros(2, 16, 36)}, "cache must be uint8, got float32"),
        ({"cache": torch.zeros(2, 32, 36, dtype=torch.uint8)[:, ::2]}, "pages of the cache must be dense"),
        ({"cache": torch.zeros(9999, dtype=torch.uint8).as_strided((2, 16, 36), (578, 36, 1))}, "multiples of 4 bytes"),
        ({"cache": torch.zeros(9999, dtype=torch.uint8)[1:1153].view(2, 16, 36)}, "multiples of 4 bytes"),
        ({"cache": torch.zeros(9999, dtype=torch.uint8).as_strided((2, 16, 36), (572, 36, 1))}, "cannot be 572"),
        ({"slot_mapping": torch.zeros(5, dtype=torch.int64)}, "slot_mapping has 5 slots for 4 tokens"),
        ({"slot_mapping": torch.zeros(4)}, "slot_mapping must be int64 or int32, got float32"),
    ],
)
def test_contract(change, sentence):
    arguments = {
        "k": torch.zeros(4, 32, dtype=torch.bfloat16),
        "cache": torch.zeros(2, 16, 36, dtype=torch.uint8),
        "slot_mapping": torch.arange(4),
        "scale_fmt": "ue8m0",
        "fp8": "e4m3fn",
        "quant_group": 32,
        "layout": "auto",
    }
    with pytest.raises(ValueError, match=sentence):
        k_quant_cache(**(arguments | change))
