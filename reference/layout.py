"""Where the bytes of the paged indexer cache lie.

A cache is a uint8 tensor [num_blocks, block_size, D + 4] with strides (page_stride, D + 4, 1), but its last two
dimensions are a size, not an arrangement: a page is ``block_size * D`` value bytes followed by ``block_size`` fp32
scales, or words of four exponents. Words are in token order, or, in SHUFFLE-SCALES pages, interleaved: a tile of tokens
has the first exponents of all, then the second ones; its values lie as in SHUFFLE pages. Here D, and head_dim, are a
key's bytes of values: keys in MXFP4 have half as many as dims. The page stride may exceed the page, up to spans far
above 2**32 bytes, so all offsets are int64 and only touched bytes are ever read.
"""

from functools import lru_cache

import torch
from torch import Tensor

TILE = 16
"""Tokens and dims of one SHUFFLE tile: a tile is 16 tokens of 16 consecutive bytes."""

SCALE_BYTES = 4

ROW_ORDER = ("normal", "shuffle")
"""Layouts of pages in which the four bytes of a scale lie side by side."""

CONCRETE = (*ROW_ORDER, "shuffle-scales")

_WORDS = (torch.int64, torch.int32, torch.uint8)


def resolve(layout: str, block_size: int) -> str:
    """The concrete layout, one of CONCRETE: "auto" is NORMAL iff ``block_size`` is 1, else SHUFFLE."""
    if layout == "auto":
        return "normal" if block_size == 1 else "shuffle"
    if layout not in CONCRETE:
        raise ValueError(f'layout must be "auto", "normal", "shuffle" or "shuffle-scales", got "{layout}"')
    return layout


@lru_cache(maxsize=256)
def value_offsets(layout: str, block_size: int, head_dim: int, device: torch.device) -> Tensor:
    """Byte offset in its page of every value, int64 [block_size, head_dim].

    ``layout`` is "normal" (t*D + d), or "shuffle" or "shuffle-scales" (16x16 tiles). ValueError where it is none of
    them, or where tiles are not defined: block_size and head_dim must be multiples of 16.
    """
    check_defined(layout, block_size, head_dim)
    return (_normal if layout == "normal" else _shuffle)(block_size, head_dim, device)


def check_defined(layout: str, block_size: int, head_dim: int) -> None:
    """ValueError where ``layout`` is none of CONCRETE, or tiles are not defined for such pages."""
    if layout not in CONCRETE:
        raise ValueError(f'offsets exist for "normal", "shuffle" and "shuffle-scales", not for "{layout}"')
    if not is_defined(layout, block_size, head_dim):
        raise ValueError(f"SHUFFLE needs multiples of {TILE}, got block_size {block_size} and head_dim {head_dim}")


def is_defined(layout: str, block_size: int, head_dim: int) -> bool:
    """Whether pages may have a concrete layout: all but NORMAL move whole tiles of 16 tokens by 16 bytes."""
    return layout == "normal" or not (block_size % TILE or head_dim % TILE)


def _grid(block_size: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.arange(block_size, device=device)[:, None], torch.arange(head_dim, device=device)[None, :]


def _normal(block_size: int, head_dim: int, device: torch.device) -> Tensor:
    t, d = _grid(block_size, head_dim, device)
    return t * head_dim + d


def _shuffle(block_size: int, head_dim: int, device: torch.device) -> Tensor:
    t, d = _grid(block_size, head_dim, device)
    return (t // TILE) * TILE * head_dim + (d // TILE) * TILE * TILE + (t % TILE) * TILE + d % TILE


@lru_cache(maxsize=256)
def scale_offsets(layout: str, block_size: int, head_dim: int, device: torch.device) -> Tensor:
    """Byte offset in its page of each of the 4 bytes of every scale, int64 [block_size, 4]; ``layout`` is concrete."""
    t, byte = _grid(block_size, SCALE_BYTES, device)
    if layout == "shuffle-scales":
        return block_size * head_dim + t // TILE * TILE * SCALE_BYTES + byte * TILE + t % TILE
    return block_size * head_dim + t * SCALE_BYTES + byte


@lru_cache(maxsize=64)
def arrangements(block_size: int, head_dim: int, device: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
    """Every arrangement that a kernel might take a page to have: name -> (value offsets, scale offsets).

    For telling mistakes apart, so that it holds more than the cache may have: "shuffle" even where its tiles reach
    beyond the page, and "interleaved", each token's values followed by its own scale.
    """
    scales, shuffled = scale_offsets("normal", block_size, head_dim, device), _shuffle(block_size, head_dim, device)
    token = (head_dim + SCALE_BYTES) * torch.arange(block_size, device=device)[:, None]
    within = torch.arange(head_dim + SCALE_BYTES, device=device)
    return {
        "normal": (_normal(block_size, head_dim, device), scales),
        "shuffle": (shuffled, scales),
        "shuffle-scales": (shuffled, scale_offsets("shuffle-scales", block_size, head_dim, device)),
        "interleaved": (token + within[:head_dim], token + within[head_dim:]),
    }


def read_arranged(cache: Tensor, slots: Tensor, values: Tensor, scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take tokens out of a cache at slots [n] by the offsets of an arrangement that may reach beyond the pages.

    Returns values uint8 [n, D], scales fp32 [n], and which values lie inside the cache at all, bool [n, D] (0
    elsewhere).
    """
    flat, block_size = flat_bytes(cache), cache.shape[1]
    slots = slots.long()
    page = (slots // block_size * cache.stride(0)).unsqueeze(-1)
    value_index, scale_index = page + values[slots % block_size], page + scales[slots % block_size]
    inside = value_index < flat.shape[0]
    codes = torch.where(inside, flat[torch.where(inside, value_index, 0)], 0)
    scale_bytes = flat[scale_index.clamp_max(max(flat.shape[0] - 1, 0))]
    return codes, scale_bytes.view(torch.float32).squeeze(-1), inside


def flat_bytes(cache: Tensor) -> Tensor:
    """The bytes from the first page to the end of the last, 1-D, padding included, sharing the cache's memory.

    ValueError if the tensor is not uint8 [num_blocks, block_size, D + 4] with dense pages.
    """
    if cache.dtype != torch.uint8 or cache.dim() != 3:
        raise ValueError(
            f"the cache must be uint8 [num_blocks, block_size, head_dim + 4], got {cache.dtype} {tuple(cache.shape)}"
        )
    num_blocks, block_size, token_bytes = cache.shape
    if cache.stride(2) != 1 or (block_size > 1 and cache.stride(1) != token_bytes):
        raise ValueError(f"the pages of the cache must be dense, got strides {cache.stride()}")
    if num_blocks == 0:
        return cache.reshape(0)
    span = (num_blocks - 1) * cache.stride(0) + block_size * token_bytes
    return cache.as_strided((span,), (1,), cache.storage_offset())


def page_shape(cache: Tensor) -> tuple[int, int]:
    """block_size and D of a cache [num_blocks, block_size, D + 4]."""
    return cache.shape[1], cache.shape[2] - SCALE_BYTES


def pages(cache: Tensor) -> Tensor:
    """The pages of a cache as [num_blocks, block_size * (D + 4)] bytes, sharing its memory."""
    flat = flat_bytes(cache)
    num_blocks, block_size, token_bytes = cache.shape
    return flat.as_strided((num_blocks, block_size * token_bytes), (cache.stride(0), 1), cache.storage_offset())


def write_tokens(cache: Tensor, slots: Tensor, values: Tensor, scales: Tensor, layout: str) -> None:
    """Put tokens into a cache at slots [n] >= 0: values uint8 [n, D], scales fp32 [n]; ``layout`` is concrete."""
    value_rows, scale_rows, block, offset = _rows(cache, slots, layout)
    _, _, tile, chunks, words = value_rows.shape
    run = scale_rows.shape[2]
    value_rows[block, offset // tile, offset % tile] = (
        values.contiguous().view(value_rows.dtype).view(len(slots), chunks, words)
    )
    scale_rows[block, offset // run, offset % run] = scales.contiguous().view(torch.uint8).view(-1, SCALE_BYTES)


def mark_tokens(cache: Tensor, slots: Tensor, layout: str) -> None:
    """Set the bytes of the tokens at slots [n] >= 0, values and scale, to 1; ``layout`` is concrete."""
    values = torch.ones((len(slots), cache.shape[2] - SCALE_BYTES), dtype=torch.uint8, device=cache.device)
    scales = torch.ones((len(slots), SCALE_BYTES), dtype=torch.uint8, device=cache.device)
    write_tokens(cache, slots, values, scales.view(torch.float32).squeeze(1), layout)


def read_tokens(cache: Tensor, slots: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """Take tokens out of a cache at slots [...]: values uint8 [..., D], scales fp32 [...]; ``layout`` is concrete."""
    value_rows, scale_rows, block, offset = _rows(cache, slots, layout)
    tile, run = value_rows.shape[2], scale_rows.shape[2]
    values = value_rows[block, offset // tile, offset % tile].flatten(-2).view(torch.uint8)
    return values, scale_rows[block, offset // run, offset % run].view(torch.float32).squeeze(-1)


def _rows(cache: Tensor, slots: Tensor, layout: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The bytes of every slot as views of the cache, and the block and offset of each slot, int64 like ``slots``.

    Values are [num_blocks, tiles, tokens of a tile, chunks, words of a chunk]: SHUFFLE cuts a page into tiles and a
    token into chunks, NORMAL is one tile of whole tokens. Words are as wide as alignment allows, for speed. Scales are
    [num_blocks, runs, tokens of a run, 4] bytes: a run is a tile where they are interleaved, else the page.
    """
    num_blocks, block_size, token_bytes = cache.shape
    head_dim = token_bytes - SCALE_BYTES
    check_defined(layout, block_size, head_dim)
    tile, chunk = (block_size, head_dim) if layout == "normal" else (TILE, TILE)
    stride, start = cache.stride(0), flat_bytes(cache).storage_offset()
    value_rows = cache.as_strided(
        (num_blocks, block_size // tile, tile, head_dim // chunk, chunk),
        (stride, tile * head_dim, chunk, tile * chunk, 1),
        start,
    )
    word = next(word for word in _WORDS if not any(at % word.itemsize for at in (stride, start, chunk)))
    interleaved = layout == "shuffle-scales"
    run, steps = (TILE, (1, TILE)) if interleaved else (block_size, (SCALE_BYTES, 1))
    scale_rows = cache.as_strided(
        (num_blocks, block_size // run, run, SCALE_BYTES),
        (stride, run * SCALE_BYTES, *steps),
        start + block_size * head_dim,
    )
    slots = slots.long()
    return value_rows.view(word), scale_rows, slots // block_size, slots % block_size
