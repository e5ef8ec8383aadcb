import pytest
import torch

from indexfuzz.reference import layout

CPU = torch.device("cpu")


def shuffle_by_definition(t: int, d: int, head_dim: int) -> int:
    return (t // 16) * 16 * head_dim + (d // 16) * 256 + (t % 16) * 16 + d % 16


@pytest.mark.parametrize(("block_size", "head_dim"), [(16, 16), (16, 32), (48, 32), (64, 128), (32, 256)])
def test_shuffle_is_the_formula_and_a_permutation(block_size: int, head_dim: int) -> None:
    offsets = layout.value_offsets("shuffle", block_size, head_dim, CPU)
    for t in range(0, block_size, 7):
        for d in range(0, head_dim, 5):
            assert int(offsets[t, d]) == shuffle_by_definition(t, d, head_dim)
    assert torch.equal(offsets.flatten().sort().values, torch.arange(block_size * head_dim))


def test_normal_and_scales() -> None:
    assert layout.value_offsets("normal", 3, 4, CPU).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert layout.scale_offsets("normal", 3, 4, CPU).tolist() == [[12, 13, 14, 15], [16, 17, 18, 19], [20, 21, 22, 23]]


def test_interleaved_scales_are_the_formula_behind_shuffled_values() -> None:
    offsets = layout.scale_offsets("shuffle-scales", 48, 32, CPU)
    for t in range(48):
        for byte in range(4):
            assert int(offsets[t, byte]) == 48 * 32 + t // 16 * 64 + byte * 16 + t % 16
    assert torch.equal(
        layout.scale_offsets("shuffle", 48, 32, CPU).flatten().sort().values, offsets.flatten().sort().values
    )
    values = layout.value_offsets("shuffle-scales", 48, 32, CPU)
    assert torch.equal(values, layout.value_offsets("shuffle", 48, 32, CPU))


@pytest.mark.parametrize("name", ["shuffle", "shuffle-scales"])
@pytest.mark.parametrize(("block_size", "head_dim"), [(1, 128), (8, 128), (24, 32), (16, 100)])
def test_shuffle_exists_only_for_whole_tiles(name: str, block_size: int, head_dim: int) -> None:
    with pytest.raises(ValueError, match="SHUFFLE needs multiples of 16"):
        layout.value_offsets(name, block_size, head_dim, CPU)


def test_auto_is_normal_for_single_token_pages() -> None:
    assert [layout.resolve("auto", bs) for bs in (1, 2, 16, 64)] == ["normal", "shuffle", "shuffle", "shuffle"]
    assert layout.resolve("normal", 64) == "normal"
    with pytest.raises(ValueError, match="layout must be"):
        layout.resolve("interleaved", 64)


@pytest.mark.parametrize("name", layout.CONCRETE)
@pytest.mark.parametrize("page_stride", [16 * 36, 16 * 36 + 132, (1 << 31) + 132, (1 << 32) + 36])
def test_tokens_come_back_from_pages_at_any_stride(name: str, page_stride: int) -> None:
    blocks, block_size, head_dim = 2, 16, 32
    pool = torch.empty((blocks - 1) * page_stride + block_size * (head_dim + 4) + 8, dtype=torch.uint8)
    cache = pool.as_strided((blocks, block_size, head_dim + 4), (page_stride, head_dim + 4, 1), 8)
    cache.zero_()
    slots = torch.tensor([31, 0, 17, 16])
    values = torch.arange(4 * head_dim, dtype=torch.uint8).view(4, head_dim)
    scales = torch.tensor([1.5, -2.0, 3.0, 0.25])
    layout.write_tokens(cache, slots, values, scales, name)
    back, back_scales = layout.read_tokens(cache, slots, name)
    assert torch.equal(back, values)
    assert torch.equal(back_scales, scales)
    page = layout.pages(cache)[1]
    assert torch.equal(page[layout.value_offsets(name, block_size, head_dim, CPU)[15]], values[0])
    assert page[layout.scale_offsets(name, block_size, head_dim, CPU)[15]].view(torch.float32) == 1.5
    assert int((layout.pages(cache) != 0).sum()) == int((values != 0).sum()) + int(
        (scales.view(torch.uint8) != 0).sum()
    )


@pytest.mark.parametrize("name", layout.CONCRETE)
def test_marked_tokens_are_exactly_the_bytes_that_are_written(name: str) -> None:
    cache, marks = torch.zeros((2, 3, 16, 36), dtype=torch.uint8)
    slots = torch.tensor([47, 0, 17])
    layout.write_tokens(cache, slots, torch.full((3, 32), 9, dtype=torch.uint8), torch.full((3,), 7.1e8), name)
    layout.mark_tokens(marks, slots, name)
    assert torch.equal(marks, (cache != 0).to(torch.uint8))


def test_empty_cache_and_wrong_caches() -> None:
    assert layout.flat_bytes(torch.empty((0, 16, 36), dtype=torch.uint8)).numel() == 0
    with pytest.raises(ValueError, match="must be uint8"):
        layout.flat_bytes(torch.empty((2, 16, 36)))
    with pytest.raises(ValueError, match="must be dense"):
        layout.flat_bytes(torch.empty((2, 16, 72), dtype=torch.uint8)[..., :36])


def test_reading_by_a_foreign_arrangement_stops_at_the_end() -> None:
    cache = torch.arange(2 * 36, dtype=torch.uint8).view(2, 1, 36)
    values, scales = layout.arrangements(1, 32, CPU)["shuffle"]
    codes, _, inside = layout.read_arranged(cache, torch.tensor([0, 1]), values, scales)
    assert codes[0, :16].tolist() == list(range(16))
    assert inside.tolist() == [[True] * 16 + [False] * 16] * 2
