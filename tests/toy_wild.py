"""A gather that is right, and a launch behind it that copies a scale to memory which nobody looks at.

WILD in the environment has it misuse memory, which no value shows: `beyond` copies what lies behind the last scale,
`unwritten` what nobody has written, `early` a scale before there is one, and `hazard` goes through shared memory with
no barrier.
"""

import os

import torch
import triton
import triton.language as tl

from indexfuzz import Implementation
from indexfuzz.implementations.builtin import builtin

BUILTIN = builtin()
LANES = 128

THROUGH_SHARED = tl.constexpr("""{
    .shared .align 4 .b32 cell;
    st.volatile.shared.u32 [cell], $1;
    ld.volatile.shared.u32 $0, [cell];
}""")


@triton.jit
def copy_kernel(k_scale_ptr, copy_ptr, number):
    tl.store(copy_ptr, tl.load(k_scale_ptr + number))


@triton.jit
def exchange_kernel(copy_ptr, LANES: tl.constexpr):
    lane = tl.arange(0, LANES)
    got = tl.inline_asm_elementwise(THROUGH_SHARED, "=r,r", [lane], dtype=tl.int32, is_pure=False, pack=1)
    tl.store(copy_ptr + lane, got)


def copy(scales, number):
    copy_kernel[(1,)](scales, torch.empty(1, device=scales.device), number)


def gather(cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, *, quant_group, layout):
    wild, number = os.environ.get("WILD"), len(k_scale)
    if wild == "early" and number:
        copy(k_scale, number - 1)
    BUILTIN.stages["gather"](
        cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, quant_group=quant_group, layout=layout
    )
    if wild == "hazard" and number:
        exchange_kernel[(1,)](torch.empty(LANES, dtype=torch.int32, device=k_scale.device), LANES=LANES)
    elif wild == "unwritten" and number:
        copy(torch.empty(1, device=k_scale.device), 0)
    elif number:
        copy(k_scale, number - (wild != "beyond"))


implementation = Implementation("toy_wild", {"gather": gather}, BUILTIN.contract.__class__(BUILTIN.contract.clauses))
