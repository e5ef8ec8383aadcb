import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.kernels.layout import resolve_layout, split_pages, value_offset
from indexfuzz.reference import layout as reference


@triton.jit
def _offsets_kernel(out_ptr, BLOCK_SIZE: tl.constexpr, HEAD_DIM: tl.constexpr, SHUFFLE: tl.constexpr):
    token = tl.arange(0, BLOCK_SIZE)[:, None]
    dim = tl.arange(0, HEAD_DIM)[None, :]
    tl.store(out_ptr + token * HEAD_DIM + dim, value_offset(token, dim, HEAD_DIM, SHUFFLE))


@pytest.mark.parametrize("head_dim", [32, 64, 128])
@pytest.mark.parametrize(("layout", "block_size"), [("normal", 1), ("normal", 8), ("shuffle", 16), ("shuffle", 64)])
def test_value_offset_is_the_reference_formula(layout, block_size, head_dim):
    offsets = torch.empty(block_size, head_dim, dtype=torch.int32)
    _offsets_kernel[(1,)](offsets, BLOCK_SIZE=block_size, HEAD_DIM=head_dim, SHUFFLE=layout == "shuffle")
    expected = reference.value_offsets(layout, block_size, head_dim, torch.device("cpu"))
    assert torch.equal(offsets.long(), expected)


@pytest.mark.parametrize(
    ("layout", "block_size", "expected"),
    [
        ("auto", 1, "normal"),
        ("auto", 16, "shuffle"),
        ("auto", 640, "shuffle"),
        ("normal", 2, "normal"),
        ("normal", 64, "normal"),
        ("shuffle", 48, "shuffle"),
    ],
)
def test_auto_is_normal_only_for_block_size_1(layout, block_size, expected):
    assert resolve_layout(layout, block_size, 128) == expected


@pytest.mark.parametrize(("layout", "block_size"), [("auto", 2), ("auto", 8), ("shuffle", 24), ("shuffle", 1)])
def test_shuffle_outside_whole_tiles_is_rejected(layout, block_size):
    with pytest.raises(ValueError, match=f"SHUFFLE layout needs .* got block_size {block_size} and head_dim 128"):
        resolve_layout(layout, block_size, 128)


def test_unknown_layout_is_rejected():
    with pytest.raises(ValueError, match='layout must be one of auto, normal, shuffle, shuffle-scales, got "tiled"'):
        resolve_layout("tiled", 16, 128)


@pytest.mark.parametrize("pad", [0, 4, 132])
def test_split_pages_are_views_of_values_and_scales(make_cache, pad):
    cache = make_cache(3, 16, 32, pad=pad)
    values, scales = split_pages(cache, torch.float8_e4m3fn)
    assert values.shape == (3, 16 * 32)
    assert scales.shape == (3, 16)
    scales[2, 5] = 1.5
    values.view(torch.uint8)[1, 7] = 0x11
    page = reference.pages(cache)
    assert page[1, 7] == 0x11
    assert page[2, 16 * 32 + 4 * 5 :][:4].view(torch.float32) == 1.5


def test_split_pages_of_an_empty_pool(make_cache):
    values, scales = split_pages(make_cache(0, 16, 32), torch.uint8)
    assert values.shape == (0, 512)
    assert scales.shape == (0, 16)
