"""Keys that stand for several tokens, as a function of all tokens of a request: no state, no steps.

With r tokens to a group, key g is, in every dim for itself,

    sum(softmax(s[w] + bias[w % r]) * kv[w])    over its tokens w

where w are the tokens g*r to (g+1)*r - 1, by the last D columns of kv and s. With overlap w are also those of group
g - 1, if there is one, by the first D columns; kv, s and bias have 2*D columns then. This is the compressor of
DeepSeek-V4 before its norm (class Compressor of the model code that is published with the weights: ratio 4 with
overlap, ratio 128 without); a group that is not complete makes no key.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from indexfuzz.reference.arithmetic import U
from indexfuzz.reference.intervals import TINY, Interval

EXP_ERROR = 4.0
"""Relative error of exp(x) in units of u, besides that of its argument: ex2.approx of PTX has 2 ulps."""


class Tokens(NamedTuple):
    """All tokens of a request: kv and scores [L, W] fp32, W of D or, with overlap, 2 * D."""

    kv: Tensor
    scores: Tensor

    def until(self, length: int) -> "Tokens":
        """The first so many of them."""
        return self.between(0, length)

    def between(self, start: int, end: int) -> "Tokens":
        """Those from one to before another."""
        return Tokens(self.kv[start:end], self.scores[start:end])


def windows(x: Tensor, ratio: int, *, overlap: bool, missing: float) -> Tensor:
    """The rows of x [L, W] that make each key: [L // ratio, window, D]; `missing` for those before the first token."""
    groups = len(x) // ratio
    width = x.shape[1]
    rows = x[: groups * ratio].view(groups, ratio, width)
    if not overlap:
        return rows
    own, before = rows[..., width // 2 :], rows[..., : width // 2]
    none = torch.full_like(before[:1], missing)
    return torch.cat([torch.cat([none, before[:-1]]), own], 1)


def legal_keys(tokens: Tokens, bias: Tensor, *, ratio: int, overlap: bool) -> Interval:
    """The keys of a request in fp32, [L // ratio, D] from the smallest to the largest that rounding explains.

    score + bias is rounded once; its distance from the largest one, of which the error is 1 u, is multiplied by
    log2 e, another 2 u, and raised; sums are in any order. Where products may overflow the ends are infinite.
    """
    groups = len(tokens.kv) // ratio
    at = torch.arange(groups * ratio, device=bias.device) % ratio
    biased = tokens.scores[: groups * ratio] + bias[at]
    score = windows(biased, ratio, overlap=overlap, missing=float("-inf")).double()
    kv = windows(tokens.kv, ratio, overlap=overlap, missing=0.0).double()
    size = kv.shape[1]
    distance = score - score.amax(1, keepdim=True)
    weight = distance.exp()
    weight = weight / weight.sum(1, keepdim=True)
    error = (EXP_ERROR - 3 * distance.clamp_min(-200.0) + size + 2) * U
    key = (weight * kv).sum(1)
    bound = (weight * kv.abs() * error).sum(1) + key.abs() * (weight * error).sum(1)
    largest = kv.abs().amax(1)
    bound = bound * (1 + 2.0**-10) + size * TINY * (1 + largest)
    bound = torch.where(size * largest > torch.finfo(torch.float32).max / 2, float("inf"), bound)
    return Interval(key - bound, key + bound)


def keys(tokens: Tokens, bias: Tensor, *, ratio: int, overlap: bool) -> Tensor:
    """The keys of a request, evaluated in fp64, rounded to fp32 and to bf16: [L // ratio, D]."""
    low, high = legal_keys(tokens, bias, ratio=ratio, overlap=overlap)
    middle = ((low + high) / 2).nan_to_num(0.0)
    return middle.float().bfloat16()
