"""A gather that is right, and in the launch behind it reads one scale too far where WILD is set in the environment."""

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
    BUILTIN.stages["gather"](
        cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, quant_group=quant_group, layout=layout
    )
    if len(k_scale):
        look_kernel[(1,)](k_scale, len(k_scale) - ("WILD" not in os.environ))


implementation = Implementation("toy_wild", {"gather": gather}, BUILTIN.contract.__class__(BUILTIN.contract.clauses))
