"""Rotary position embedding of the indexer's q and k."""

from torch import Tensor


def rope(
    q: Tensor,
    k: Tensor,
    positions: Tensor,
    cos_sin_cache: Tensor,
    *,
    rope_dim: int,
    style: str,
    placement: str,
    mode: str = "functional",
) -> tuple[Tensor, Tensor]:
    """Rotate ``rope_dim`` dims of q [T, H, D] and k [T, D] by the angles of ``positions`` [T] int64.

    ``cos_sin_cache`` [max_pos, rope_dim] is fp32 or bf16. The first half of a cache row holds cosines, the last half
    sines. ``style`` "neox" pairs element i with i + rope_dim/2, "interleaved" 2i with 2i + 1; ``placement`` says
    whether the rotated dims come "first" or "last". fp32 arithmetic, each product and sum rounded, one rounding to
    the dtype of q and k at the end: bf16, fp16 or fp32. Always functional: the inputs stay as they are and ``mode`` is
    ignored.
    """
    del mode
    out_q, out_k = q.clone(), k.clone()
    for x, out in ((q, out_q), (k.unsqueeze(1), out_k.unsqueeze(1))):
        a, b = pairs(x, rope_dim=rope_dim, style=style, placement=placement)
        out_a, out_b = pairs(out, rope_dim=rope_dim, style=style, placement=placement)
        cos, sin = cos_sin(positions, cos_sin_cache)
        out_a.copy_(a.float() * cos - b.float() * sin)
        out_b.copy_(b.float() * cos + a.float() * sin)
    return out_q, out_k


def pairs(x: Tensor, *, rope_dim: int, style: str, placement: str) -> tuple[Tensor, Tensor]:
    """The two halves of every rotated pair of ``x`` [..., D], as views [..., rope_dim/2]."""
    if placement not in ("first", "last"):
        raise ValueError(f'placement must be "first" or "last", got "{placement}"')
    start = 0 if placement == "first" else x.shape[-1] - rope_dim
    rotated = x[..., start : start + rope_dim]
    if style == "neox":
        return rotated[..., : rope_dim // 2], rotated[..., rope_dim // 2 :]
    if style == "interleaved":
        return rotated[..., 0::2], rotated[..., 1::2]
    raise ValueError(f'style must be "neox" or "interleaved", got "{style}"')


def cos_sin(positions: Tensor, cos_sin_cache: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of each token as fp32 [T, 1, rope_dim/2]."""
    row = cos_sin_cache[positions.long()].float().unsqueeze(1)
    half = row.shape[-1] // 2
    return row[..., :half], row[..., half:]
