"""A gather that is right, and launches around it that read a scale and do nothing with it.

WILD=beyond in the environment makes the second one read behind the last scale, WILD=early the first one a scale that
nobody has written; without it neither does.
"""

import os

import triton
import triton.language as tl

from indexfuzz import Implementation
from indexfuzz.implementations.builtin import builtin

BUILTIN = builtin()


@triton.jit
def look_kernel(k_scale_ptr, last):
    seen = tl.load(k_scale_ptr + last)
    tl.store(k_scale_ptr, seen, mask=last < 0)


def gather(cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, *, quant_group, layout):
    wild = os.environ.get("WILD")
    if len(k_scale) and wild == "early":
        look_kernel[(1,)](k_scale, 0)
    BUILTIN.stages["gather"](
        cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, quant_group=quant_group, layout=layout
    )
    if len(k_scale):
        look_kernel[(1,)](k_scale, len(k_scale) - (wild != "beyond"))


implementation = Implementation("toy_wild", {"gather": gather}, BUILTIN.contract.__class__(BUILTIN.contract.clauses))
