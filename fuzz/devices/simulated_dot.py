"""The bits of q . k on a known matrix unit, for judging logits in tier T1."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indexfuzz.lockstep.arithmetic.matrix_units import MODELS
from indexfuzz.reference import fp8
from indexfuzz.reference.bounds import Dot


def simulated_dot(model: str, m_tile: int) -> Dot:
    """How a kernel whose `tl.dot` has `m_tile` rows scores FP8 q [S, R, H, D] against k [S, N, D]: fp32 [S, R, H, N].

    `model` names the matrix unit ("ieee", "sm90", "cdna3"). It computes the same bits whichever of q and k is the left
    operand, and whatever else is in the tile; but sm90 has one arithmetic for tiles of 64 rows and their multiples,
    another for smaller ones. The whole head_dim is one `tl.dot`, without accumulator and without
    max_num_imprecise_acc. The result lies on the device of q.

    Raises ValueError for an unknown model or an m_tile below 1; the returned function raises it for a format or
    head_dim that the unit lacks.
    """
    if model not in MODELS:
        raise ValueError(f"unknown matrix unit {model!r}; there are {', '.join(MODELS)}")
    if m_tile < 1:
        raise ValueError(f"m_tile must be at least 1, got {m_tile}")

    def scores(q: Tensor, k: Tensor) -> Tensor:
        groups, rows, heads, head_dim = q.shape
        fmt = fp8.format_of(q)
        left, right = _values(q).reshape(groups, rows * heads, head_dim), _values(k)
        if _padded(left.shape[1], m_tile) * right.shape[1] <= left.shape[1] * _padded(right.shape[1], m_tile):
            out = _by_tiles(model, left, right, fmt, m_tile)
        else:
            out = _by_tiles(model, right, left, fmt, m_tile).transpose(0, 2, 1)
        return torch.from_numpy(np.ascontiguousarray(out)).to(q.device).view(groups, rows, heads, k.shape[1])

    return scores


def _values(x: Tensor) -> NDArray[np.float32]:
    """Return the exact values of FP8 codes, on the CPU."""
    values: NDArray[np.float32] = fp8.decode(fp8.codes(x).cpu(), fp8.format_of(x)).numpy()
    return values


def _padded(rows: int, m_tile: int) -> int:
    return -(-rows // m_tile) * m_tile


def _by_tiles(
    model: str, left: NDArray[np.float32], right: NDArray[np.float32], fmt: str, m_tile: int
) -> NDArray[np.float32]:
    """Dots of left [S, I, D] with right [S, J, D], `m_tile` rows of left at a time: [S, I, J]."""
    groups, rows, head_dim = left.shape
    tiles = -(-rows // m_tile)
    padded = np.zeros((groups, tiles * m_tile, head_dim), np.float32)
    padded[:, :rows] = left
    stacked = padded.reshape(groups, tiles, m_tile, head_dim)
    columns = np.ascontiguousarray(right.transpose(0, 2, 1))
    acc = np.zeros((1, m_tile, right.shape[1]), np.float32)
    out = np.empty((groups, tiles, m_tile, right.shape[1]), np.float32)
    # Tiles of one group share its columns, and tiles of different groups run side by side: the shorter loop is ours.
    if tiles <= groups:
        for t in range(tiles):
            out[:, t] = MODELS[model](stacked[:, t], columns, acc, fmt, fmt)
    else:
        for s in range(groups):
            out[s] = MODELS[model](stacked[s], columns[s : s + 1], acc, fmt, fmt)
    return out.reshape(groups, tiles * m_tile, right.shape[1])[:, :rows]
