"""Keys that are pooled over the tokens of a group and rotated, as a function of all tokens of a request: no state.

With r tokens to a group, key g is, in every dim for itself, the sum of softmax(s[w] + bias[w % r]) * k[w] over its
tokens w, g*r to (g+1)*r - 1, or the largest k[w]; then it is turned by the Hadamard matrix over sqrt(D). This is the
pooling of index keys in GLM-5.3-Flash, where r is 4 and the softmax is taken; a group that is not complete makes no
key.
"""

from torch import Tensor

from indexfuzz.reference import compress
from indexfuzz.reference.compress import Tokens
from indexfuzz.reference.intervals import Interval, hadamard, rounded


def legal_pooled(tokens: Tokens, bias: Tensor, *, ratio: int, pooling: str) -> Interval:
    """The keys of a request before they are rotated, in fp32, [L // ratio, D]; k and scores are bf16 [L, D]."""
    if pooling == "softmax":
        return compress.legal_keys(tokens, bias, ratio=ratio, overlap=False)
    return Interval.exact(compress.windows(tokens.kv, ratio, overlap=False, missing=0.0).amax(1))


def legal_keys(tokens: Tokens, bias: Tensor, *, ratio: int, pooling: str, between: str) -> Interval:
    """The keys of a request in fp32, [L // ratio, D] from the smallest to the largest that rounding explains.

    `between` says what a pooled key is before it is rotated: "bf16", "fp32" or, "unknown", either.
    """
    return hadamard(rounded(legal_pooled(tokens, bias, ratio=ratio, pooling=pooling), between))


def keys(tokens: Tokens, bias: Tensor, *, ratio: int, pooling: str) -> Tensor:
    """The keys of a request, evaluated in fp64 and rounded to bf16 before and after the rotation: [L // ratio, D]."""
    pooled = legal_pooled(tokens, bias, ratio=ratio, pooling=pooling).middle().bfloat16()
    return hadamard(Interval.exact(pooled)).middle().bfloat16()
