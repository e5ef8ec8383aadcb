"""Small kernels with a tl.dot of FP8, and launchers of the prefill logits that give them what they need."""

import triton
import triton.language as tl

from indexfuzz.compiling.specialisation import specialise
from indexfuzz.compiling.targets import TARGETS
from indexfuzz.implementations.base import Implementation


@triton.jit
def dot_kernel(q_ptr, k_ptr, out_ptr, HEADS: tl.constexpr, DIM: tl.constexpr, KEYS: tl.constexpr, WIDEN: tl.constexpr):
    dim, key, head = tl.arange(0, DIM), tl.arange(0, KEYS), tl.arange(0, HEADS)
    k = tl.load(k_ptr + key[:, None] * DIM + dim[None, :])
    q = tl.load(q_ptr + head[:, None] * DIM + dim[None, :])
    if WIDEN:
        k, q = k.to(tl.float16), q.to(tl.float16)
    scores = tl.dot(k, tl.trans(q))
    tl.store(out_ptr + key[:, None] * HEADS + head[None, :], scores)


@triton.jit
def other_dot_kernel(x_ptr, out_ptr, SIZE: tl.constexpr):
    """A dot of bf16 whose result is made FP8: nothing is widened."""
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    x = tl.load(x_ptr + at).to(tl.bfloat16)
    tl.store(out_ptr + at, tl.dot(x, x).to(out_ptr.dtype.element_ty))


@triton.jit
def _half_or_whole(x, HALF: tl.constexpr):
    if HALF:
        return x.to(tl.float16)
    return x


@triton.jit
def two_types_kernel(x_ptr, out_ptr, HALF: tl.constexpr):
    tl.store(out_ptr, _half_or_whole(tl.load(x_ptr), HALF))


def logits_by(*, widen):
    """Prefill logits by one launch of dot_kernel, whatever comes of it."""

    def prefill_logits(q_fp8, k_fp8, k_scale, weights, ks, ke, logits):
        dot_kernel[(1,)](q_fp8, k_fp8, logits, HEADS=64, DIM=k_fp8.shape[1], KEYS=64, WIDEN=widen)

    return Implementation("toy", {"prefill_logits": prefill_logits})


def specialised(kernel, args, target, **constants):
    return specialise(kernel, args, constants, TARGETS[target])
