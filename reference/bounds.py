"""How far a logit may lie from its exact value.

A logit is k_scale * sum_h w_h relu(q_h . k). With d_h the exact dot (or the bits that a simulated matrix unit gives),
eps_h a bound on the dot's error (with rho |d_h| more where dots are stored with a relative error rho), r_h = relu(d_h)
and u = 2**-24:

    |logit - reference| <= k_scale * ( sum_h |w_h| eps_h + g * sum_h |w_h| (r_h + eps_h) ) + eta

    g   = (1 + u)**(H + 2 + extra) - 1                      products, any tree of additions, the key scale,
                                                            one to spare for a scaled weight
    eta = (H + 2) 2**-126 (1 + k_scale + max|w| + max r)    underflow of any intermediate; max|w| counts only where
                                                            k_scale < 2**-60: else r k_scale does not underflow, as
                                                            no dot of FP8 numbers but 0 is below 2**-60

Weight, dot and key scale may be multiplied in any order; where one of these orders overflows fp32 there is no bound.
What a product has below the normal range may be lost; inputs are taken as they are, subnormal weights too.

relu is 1-Lipschitz, and a dot below -eps_h is zero on every machine, so that eps_h counts only as far as d_h + eps_h
is positive.

Tiers, each a proof under its assumption: T0, data on which every order of evaluation is exact, bound 0; T1, a simulated
dot, eps 0; T2, eps from the unit's model with its groups in order; T3, eps from the unit's model in any order.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from indexfuzz.reference import fp8 as codec
from indexfuzz.reference.arithmetic import PORTABLE, Arithmetic, DotUnit, U
from indexfuzz.reference.dot_error import dot_error
from indexfuzz.reference.exact_regime import exact_logits
from indexfuzz.reference.mqa_logits import chunks, dot, key_values, visible_range
from indexfuzz.reference.nibbles import as_fp8_keys
from indexfuzz.reference.paged_mqa_logits import visible_keys
from indexfuzz.reference.scales import QUARTERS, by_dim, unpack

Dot = Callable[[Tensor, Tensor], Tensor]
"""A simulated matrix unit: FP8 q [S, R, H, D], FP8 k [S, N, D] -> scores [S, R, H, N], fp32 or wider, bit-exact."""

SMALLEST_SCALE = 2.0**-100
"""From here on keys times their scale are far from the end of normal numbers."""

SMALLEST_PRODUCT = 2.0**-60
"""Below every dot of FP8 numbers but 0, however a unit cuts its products: the smallest is 2^-20."""

FP32_MAX = torch.finfo(torch.float32).max


class LogitBounds(NamedTuple):
    """What the logits of one launch may be; every tensor is [rows, columns]."""

    reference: Tensor
    """fp64; -inf where not visible."""
    bound: Tensor
    """fp64 >= 0: the largest legal |logit - reference|; inf where some order of evaluation overflows fp32."""
    visible: Tensor
    """bool: the columns that the row may see. All others must be -inf."""
    tier: str
    """The weakest tier that a visible element was bounded by: "T0" to "T3"."""


def prefill_bounds(
    q_fp8: Tensor,
    k_fp8: Tensor,
    k_scale: Tensor,
    weights: Tensor,
    ks: Tensor,
    ke: Tensor,
    *,
    arithmetic: Arithmetic = PORTABLE,
    simulated_dot: Dot | None = None,
) -> LogitBounds:
    """Bounds of ``mqa_logits`` for its inputs; [M, N]."""
    k_fp8 = as_fp8_keys(k_fp8, codec.format_of(q_fp8))
    value, bound, exact = group_bounds(
        q_fp8[None], k_fp8[None], k_scale[None], weights[None], arithmetic, simulated_dot
    )
    visible = visible_range(ks, ke, k_fp8.shape[0])
    return _masked(value[0], bound[0], exact[0], visible, _tier(k_scale, arithmetic, simulated_dot))


def paged_bounds(
    q_fp8: Tensor,
    cache: Tensor,
    weights: Tensor,
    context_lens: Tensor,
    block_table: Tensor,
    max_model_len: int,
    *,
    layout: str,
    scales: str = "fp32",
    arithmetic: Arithmetic = PORTABLE,
    simulated_dot: Dot | None = None,
) -> LogitBounds:
    """Bounds of ``paged_mqa_logits`` for its inputs and ``max_model_len`` columns; [B * next_n, max_model_len]."""
    batch, next_n, heads, _ = q_fp8.shape
    keys = visible_keys(q_fp8, cache, context_lens, block_table, max_model_len, layout=layout, scales=scales)
    grouped = weights.reshape(batch, next_n, heads)
    found = group_bounds(q_fp8, keys.k_fp8, keys.k_scale, grouped, arithmetic, simulated_dot)
    missing = max_model_len - keys.k_scale.shape[1]
    value, bound, exact = (torch.nn.functional.pad(x.flatten(0, 1), (0, missing)) for x in found)
    column = torch.arange(max_model_len, device=q_fp8.device)
    cached = torch.nn.functional.pad(keys.cached, (0, missing)).repeat_interleave(next_n, 0)
    visible = (column < keys.windows.reshape(-1, 1)) & cached
    return _masked(value, bound, exact, visible, _tier(keys.k_scale, arithmetic, simulated_dot))


def tier(arithmetic: Arithmetic, simulated_dot: Dot | None) -> str:
    """The tier of elements outside the exact regime."""
    if simulated_dot is not None:
        return "T1"
    return "T2" if arithmetic.dot.in_order else "T3"


def _tier(k_scale: Tensor, arithmetic: Arithmetic, simulated_dot: Dot | None) -> str:
    return "T3" if k_scale.dtype == torch.int32 else tier(arithmetic, simulated_dot)


def _masked(value: Tensor, bound: Tensor, exact: Tensor, visible: Tensor, otherwise: str) -> LogitBounds:
    reference = torch.where(visible, value, float("-inf"))
    every_one = bool((exact | ~visible).all())
    return LogitBounds(reference, torch.where(visible, bound, 0.0), visible, "T0" if every_one else otherwise)


def group_bounds(
    q_fp8: Tensor, k_fp8: Tensor, k_scale: Tensor, weights: Tensor, arithmetic: Arithmetic, simulated_dot: Dot | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Reference, bound (fp64) and exactness (bool) of every logit, all [S, R, N].

    q_fp8 [S, R, H, D], k_fp8 [S, N, D], k_scale [S, N] fp32 or int32 of UE8M0 exponents, weights [S, R, H]; no mask.
    """
    groups, rows, heads, _ = q_fp8.shape
    shape = (groups, rows, k_fp8.shape[1])
    value, bound = (torch.empty(shape, dtype=torch.float64, device=q_fp8.device) for _ in range(2))
    exact = torch.empty(shape, dtype=torch.bool, device=q_fp8.device)
    for s, r in chunks(groups, rows, heads * shape[2]):
        value[s, r], bound[s, r], exact[s, r] = _bound_chunk(
            q_fp8[s, r], k_fp8[s], k_scale[s], weights[s, r], arithmetic, simulated_dot
        )
    return value, bound, exact


def _bound_chunk(
    q_fp8: Tensor, k_fp8: Tensor, k_scale: Tensor, weights: Tensor, arithmetic: Arithmetic, simulated_dot: Dot | None
) -> tuple[Tensor, Tensor, Tensor]:
    is_grouped = k_scale.dtype == torch.int32
    q, w = codec.decode(codec.codes(q_fp8), codec.format_of(q_fp8), torch.float64), weights.double()
    k, scale = key_values(k_fp8, k_scale)
    scale = scale.unsqueeze(1)
    aligned = _aligned_keys(k_fp8, k_scale)
    magnitude = dot(_aligned(q_fp8), aligned)
    scores = dot(q, k) if simulated_dot is None or is_grouped else simulated_dot(q_fp8, k_fp8).double()
    positive = scores.relu()
    value = scale * _over_heads(w, positive)
    size = _over_heads(w.abs(), positive)
    if is_grouped:
        exact = _exact_of_one_scale(q_fp8, k_fp8, k_scale, weights, arithmetic)
    else:
        exact = exact_logits(q_fp8, k_fp8, k_scale, weights, magnitude, size, arithmetic)
    if bool(exact.all()):
        return value, torch.zeros_like(value), exact
    error = torch.zeros_like(scores)
    if is_grouped:
        error = _grouped_error(_aligned(q_fp8), magnitude, arithmetic.dot)
    elif simulated_dot is None:
        error = dot_error(q_fp8, k_fp8, magnitude, arithmetic.dot)
    error += arithmetic.score_rounding * (scores.abs() + error)
    error = torch.minimum(error, scores.add_(error).clamp_min_(0))
    from_dots = _over_heads(w.abs(), error)
    heads = q_fp8.shape[2]
    g = (1 + U) ** (heads + 2 + arithmetic.extra_roundings) - 1
    g += arithmetic.weight_rounding * (1 + g) + (heads + 2) * 2.0**-51
    largest_w, largest_r = w.abs().amax(-1, keepdim=True), positive.add_(error).amax(2)
    if is_grouped:
        # A key of 16 bits may overflow though its dots do not.
        largest_r = torch.maximum(largest_r, torch.maximum(magnitude.amax(2), aligned.amax(-1).unsqueeze(1)))
    bound = scale * (from_dots + g * (size + from_dots))
    lost_w = largest_w if is_grouped else torch.where(scale < SMALLEST_PRODUCT, largest_w, 0.0)
    bound += (heads + 2) * 2.0**-126 * (1 + scale + lost_w + largest_r)
    bound = torch.where(_overflows(size + from_dots, largest_w, largest_r, scale, arithmetic), float("inf"), bound)
    return value, torch.where(exact, 0.0, bound), exact


def _overflows(size: Tensor, largest_w: Tensor, largest_r: Tensor, scale: Tensor, arithmetic: Arithmetic) -> Tensor:
    """Where some order of evaluation may overflow fp32. A weight alone does not, nor times a scale of 1 or less."""
    sums = torch.maximum(size, largest_r) * (1 + 2.0**-8)
    alone = largest_w * (1 + arithmetic.weight_rounding + arithmetic.extra_roundings * 2.0**-8)
    grows = torch.where(scale > 1, scale * (1 + 2.0**-8), 1.0)
    return ~(torch.maximum(sums, alone) * grows <= FP32_MAX)


def _exact_of_one_scale(
    q_fp8: Tensor, k_fp8: Tensor, k_scale: Tensor, weights: Tensor, arithmetic: Arithmetic
) -> Tensor:
    """Where no legal evaluation rounds anything, bool [S, R, N]: of keys whose quarters have one and the same scale.

    Whoever scales keys first has the same bits in a dot, higher or lower, and 16 bits hold them where they are normal.
    """
    scales = unpack(k_scale)
    is_one = (scales == scales[..., :1]).all(-1) & (scales[..., 0] >= SMALLEST_SCALE)
    q, k = (codec.decode(codec.codes(x), codec.format_of(x), torch.float64) for x in (q_fp8, k_fp8))
    size = _over_heads(weights.double().abs(), dot(q, k).relu())
    magnitude = dot(_aligned(q_fp8), _aligned(k_fp8))
    exact = exact_logits(q_fp8, k_fp8, scales[..., 0], weights, magnitude, size, arithmetic)
    return exact & is_one.unsqueeze(1)


def _grouped_error(q: Tensor, magnitude: Tensor, unit: DotUnit) -> Tensor:
    """Largest error of dots with keys whose quarters have scales of their own; ``magnitude`` sums |products|.

    A kernel may scale the keys and take one dot in 16 bits, whose groups are at most half as long as those of the FP8
    unit, so that there are twice as many; or take a dot of each quarter, and sum them. What is below the normal range
    may be lost: of a scaled value, which then meets a dim of ``q`` (magnitudes [S, R, H, D]); and of each product and
    each sum, quarters' included.
    """
    head_dim = q.shape[-1]
    lost = (q.sum(-1, keepdim=True) + 2 * head_dim + 2 * QUARTERS) * 2.0**-126
    return (2 * unit.relative_error(head_dim) + QUARTERS * U) * magnitude + lost


def _aligned_keys(k_fp8: Tensor, k_scale: Tensor) -> Tensor:
    """Magnitudes of keys as `_aligned` has them, times the scales of their quarters where those are in the dots."""
    aligned = _aligned(k_fp8)
    return aligned * by_dim(k_scale, aligned.shape[-1]) if k_scale.dtype == torch.int32 else aligned


def _over_heads(weights: Tensor, per_head: Tensor) -> Tensor:
    """Sum over heads of weights [S, R, H] times per_head [S, R, H, N]."""
    return torch.matmul(weights.unsqueeze(2), per_head).squeeze(2)


def _aligned(x: Tensor) -> Tensor:
    """Magnitudes of an FP8 tensor, subnormals raised to the smallest normal value: units align by clamped exponents."""
    return codec.look_up(_aligned_table(codec.format_of(x), x.device), codec.codes(x))


@lru_cache(maxsize=16)
def _aligned_table(fmt: str, device: torch.device) -> Tensor:
    value = codec.decode(torch.arange(256, dtype=torch.uint8, device=device), fmt, torch.float64)
    return torch.where(value == 0, 0.0, value.abs().clamp_min(2.0 ** codec.FORMATS[fmt].min_exponent))
