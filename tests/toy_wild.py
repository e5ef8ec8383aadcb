"""A gather that is right, and a launch behind it that copies a scale to memory which nobody looks at.

WILD=beyond in the environment makes it copy what lies behind the last scale.
"""

import os

import torch
import triton
import triton.language as tl

from indexfuzz import Implementation
from indexfuzz.implementations.builtin import builtin

BUILTIN = builtin()


@triton.jit
def copy_kernel(k_scale_ptr, copy_ptr, number):
    tl.store(copy_ptr, tl.load(k_scale_ptr + number))


def gather(cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, *, quant_group, layout):
    BUILTIN.stages["gather"](
        cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, quant_group=quant_group, layout=layout
    )
    if len(k_scale):
        number = len(k_scale) - (os.environ.get("WILD") != "beyond")
        copy_kernel[(1,)](k_scale, torch.empty(1, device=k_scale.device), number)


implementation = Implementation("toy_wild", {"gather": gather}, BUILTIN.contract.__class__(BUILTIN.contract.clauses))
