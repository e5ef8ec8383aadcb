"""Argument checks shared by the launchers: one clear sentence per broken contract."""

import torch
from torch import Tensor

HEAD_DIMS = (32, 64, 128)
"""Head dims that are a power of two and at least as deep as one FP8 matrix instruction."""

SCALE_BYTES = 4

ACTIVATIONS = (torch.bfloat16, torch.float16, torch.float32)
"""Dtypes of q and k; what is made of them before they are quantised is rounded to the same."""


def require(condition: bool, sentence: str, *values: object) -> None:
    """Raise ValueError unless the condition holds, with the sentence and the values in its braces.

    A launch that is right pays for no sentence.
    """
    if not condition:
        raise ValueError(sentence.format(*values))


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless the value is one of the choices."""
    require(value in choices, '{} must be one of {}, got "{}"', name, ", ".join(choices), value)


def require_tensor(
    name: str, tensor: Tensor, shape: tuple[int | None, ...], *dtypes: torch.dtype, dense: bool = True
) -> None:
    """Raise ValueError unless a tensor has one of the dtypes and the shape (None: any size), dense in its last dim."""
    sizes = tensor.shape
    if tensor.dtype not in dtypes:
        expected = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise ValueError(f"{name} must be {expected}, got {str(tensor.dtype).removeprefix('torch.')}")
    if sizes != shape and not _fits(sizes, shape):
        wanted_shape = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must have shape [{wanted_shape}], got {list(sizes)}")
    if dense and shape and tensor.stride()[-1] != 1 and sizes[-1] > 1:
        raise ValueError(f"{name} must be dense in its last dim, got strides {tensor.stride()}")


def _fits(sizes: torch.Size, shape: tuple[int | None, ...]) -> bool:
    for size, wanted in zip(sizes, shape, strict=False):
        if wanted is not None and size != wanted:
            return False
    return len(sizes) == len(shape)


def require_head_dim(head_dim: int) -> None:
    """Raise ValueError unless there is a tile for the head dim."""
    require(head_dim in HEAD_DIMS, "head_dim must be 32, 64 or 128, got {}", head_dim)


def require_quant_group(quant_group: int, head_dim: int) -> None:
    """Raise ValueError unless a token has exactly one scale."""
    require(
        quant_group == head_dim,
        "one scale per token is supported: quant_group must equal head_dim {}, got {}",
        head_dim,
        quant_group,
    )


def require_cache(cache: Tensor, head_dim: int) -> None:
    """Raise ValueError unless the cache is uint8 [num_blocks, block_size, head_dim + 4] with dense, aligned pages."""
    require_tensor("cache", cache, (None, None, head_dim + SCALE_BYTES), torch.uint8)
    _, block_size, token_bytes = cache.shape
    page_stride, token_stride, _ = strides = cache.stride()
    start = cache.storage_offset()
    page_bytes = block_size * token_bytes
    require(block_size > 0, "block_size must be at least 1")
    require(
        token_stride == token_bytes or block_size == 1,
        "the pages of the cache must be dense, got strides {}",
        strides,
    )
    require(
        page_stride >= page_bytes,
        "a page has {} bytes, so the page stride cannot be {}",
        page_bytes,
        page_stride,
    )
    require(
        page_stride % SCALE_BYTES == 0 and start % SCALE_BYTES == 0,
        "pages must start at multiples of 4 bytes, the size of a scale, got page stride {} and storage offset {}",
        page_stride,
        start,
    )
