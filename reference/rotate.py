"""The rotation of q and k by the Hadamard matrix over sqrt(D), which leaves q . k as it is."""

from torch import Tensor

from indexfuzz.reference.intervals import Interval, hadamard, rounded


def rotate(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of q [T, H, D] and k [T, D], turned in fp64, rounded to fp32 and to the dtype of both.

    Raises ValueError unless D is a power of two, of which alone there is such a matrix.
    """
    _require_power_of_two(q.shape[-1])
    turned_q, turned_k = (hadamard(Interval.exact(x)).middle().to(x.dtype) for x in (q, k))
    return turned_q, turned_k


def legal_rotated(x: Tensor) -> Interval:
    """What fp32 may make of rows of x [..., D], rounded to its dtype. Raises ValueError as `rotate` does."""
    _require_power_of_two(x.shape[-1])
    return rounded(hadamard(Interval.exact(x)), "bf16", x.dtype)


def _require_power_of_two(dim: int) -> None:
    if dim & (dim - 1):
        raise ValueError(f"there is a Hadamard matrix of this kind for powers of two alone, not for head_dim {dim}")
