"""A gather with two bugs, which the number of keys tells apart: it doubles a scale, or it reads beyond the last one.

PAIR in the environment says when: `wrong-odd` doubles it where that number is odd and strays where it is even,
`stray-odd` the other way round, and `both` does both in one launch. With `one` there is a single bug: what is read
beyond the last scale becomes a scale where the number is odd, and is dropped where it is even.
"""

import os

import torch
import triton
import triton.language as tl

from indexfuzz import Implementation
from indexfuzz.implementations.builtin import builtin

BUILTIN = builtin()


@triton.jit
def copy_kernel(from_ptr, to_ptr, number):
    tl.store(to_ptr, tl.load(from_ptr + number))


def gather(cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, *, quant_group, layout):
    BUILTIN.stages["gather"](
        cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, quant_group=quant_group, layout=layout
    )
    pair, number = os.environ["PAIR"], k_scale.numel()
    odd = number % 2 == 1
    if number and (pair in ("both", "wrong-odd" if odd else "stray-odd")):
        k_scale.view(-1)[:1] = k_scale.view(-1)[:1] * 2 + 1
    if number and (pair in ("both", "one") or pair == ("stray-odd" if odd else "wrong-odd")):
        elsewhere = torch.empty(1, device=k_scale.device)
        copy_kernel[(1,)](k_scale, k_scale if pair == "one" and odd else elsewhere, number)


implementation = Implementation("toy_pair", {"gather": gather}, BUILTIN.contract.__class__(BUILTIN.contract.clauses))
