"""What every kernel test needs: a machine that must not complain, and inputs whose results are exact."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from indexfuzz.lockstep import Lockstep
from indexfuzz.reference import fp8 as codec


@pytest.fixture(autouse=True)
def machine() -> Iterator[Lockstep]:
    with Lockstep() as machine:
        yield machine
        assert machine.violations == []


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(20)


@pytest.fixture
def integers(rng: torch.Generator) -> Callable[..., Tensor]:
    """Small integers as fp32: every sum of their products is exact, in any order."""

    def draw(*shape: int, low: int = -3, high: int = 3) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=rng).float()

    return draw


@pytest.fixture
def fp8_integers(integers: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Small integers as an FP8 tensor."""

    def draw(*shape: int, fp8: str = "e4m3fn") -> Tensor:
        return codec.as_fp8(codec.encode(integers(*shape), fp8), fp8)

    return draw


@pytest.fixture
def make_cache() -> Callable[..., Tensor]:
    """An empty paged cache uint8 [num_blocks, block_size, head_dim + 4], pages ``pad`` bytes apart, full of 0xA5."""

    def make(num_blocks: int, block_size: int, head_dim: int, *, pad: int = 0) -> Tensor:
        token_bytes = head_dim + 4
        stride = block_size * token_bytes + pad
        storage = torch.full((num_blocks * stride,), 0xA5, dtype=torch.uint8)
        return storage.as_strided((num_blocks, block_size, token_bytes), (stride, token_bytes, 1))

    return make


FAR_STRIDE = 2**30 + 132
FAR_BLOCK = 8
"""Page 8 of this stride lies beyond 2^31 bytes, and its scales beyond 2^31 fp32 elements, though no stride does."""


@pytest.fixture
def far_cache(tmp_path: Path) -> Tensor:
    """A cache uint8 [9, 16, 36] of more than 8 GiB in a sparse file: only touched pages exist. Use block 8."""
    size = FAR_BLOCK * FAR_STRIDE + 16 * 36
    storage = torch.from_file(str(tmp_path / "pages"), shared=True, size=size, dtype=torch.uint8)
    return storage.as_strided((FAR_BLOCK + 1, 16, 36), (FAR_STRIDE, 36, 1))


@pytest.fixture
def widen() -> Callable[..., Tensor]:
    """The same tensor as the leading columns of a wider one, as a slice of a fused projection would be."""

    def wide(tensor: Tensor, columns: int = 8) -> Tensor:
        rows, width = tensor.shape[0], tensor[0].numel()
        storage = torch.zeros(rows, width + columns, dtype=tensor.dtype)
        view = storage[:, :width].unflatten(1, tensor.shape[1:])
        view.copy_(tensor)
        return view

    return wide
