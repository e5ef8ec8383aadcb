"""A gather that is right in a launch like any other, and mistaken in one way that PLANTED in the environment names.

- warps: through memory that one lane of a program stores to and another loads from, in time with one warp alone;
- entry: an entry of a tuner whose programs take fewer scales than the launcher's grid has room for;
- stream: memory for what is between two kernels, which all launches share.
"""

import os

import torch
import triton
import triton.language as tl

from indexfuzz import Implementation
from indexfuzz.implementations.builtin import builtin

BUILTIN = builtin()
LANES = 256
"""As many as eight warps have: each lane is a thread of its own, and no barrier stands between the two accesses."""
PLANTED = ("warps", "entry", "stream")


@triton.jit
def turn_kernel(k_scale_ptr, between_ptr, number, LANES: tl.constexpr):
    """Scales turned around and back, the lower lanes later than the upper ones."""
    lane = tl.arange(0, LANES)
    scale = tl.load(k_scale_ptr + lane, mask=lane < number, other=0.0)
    late = lane
    for _ in range(16):
        late += tl.load(between_ptr + LANES + late, mask=lane < LANES // 2, other=0).to(tl.int32)
    tl.store(between_ptr + late, scale)
    turned = tl.load(between_ptr + (LANES - 1 - lane))
    tl.store(k_scale_ptr + (LANES - 1 - lane), turned, mask=LANES - 1 - lane < number)


@triton.autotune(configs=[triton.Config({"BLOCK": 64}), triton.Config({"BLOCK": 32})], key=[])
@triton.jit
def copy_kernel(from_ptr, to_ptr, number, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(to_ptr + at, tl.load(from_ptr + at, mask=at < number), mask=at < number)


@triton.jit
def move_kernel(from_ptr, to_ptr, number, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(to_ptr + at, tl.load(from_ptr + at, mask=at < number), mask=at < number)


KEPT: dict[torch.device, torch.Tensor] = {}


def kept(like):
    """Memory for integers of a device, the same for all launches."""
    made = KEPT.get(like.device)
    if made is None or len(made) < len(like):
        made = KEPT[like.device] = like.new_empty(max(1 << 16, len(like)))
    return made[: len(like)]


def gather(cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, *, quant_group, layout):
    planted, number = os.environ.get("PLANTED"), len(k_scale)
    if planted == "stream" and number:
        between = kept(token_to_seq)
        move_kernel[(triton.cdiv(number, 64),)](token_to_seq, between, number, BLOCK=64)
        token_to_seq = between
    BUILTIN.stages["gather"](
        cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, quant_group=quant_group, layout=layout
    )
    if planted == "warps" and 0 < number <= LANES:
        between = torch.zeros(2 * LANES, device=k_scale.device)
        turn_kernel[(1,)](k_scale, between, number, LANES=LANES, num_warps=1)
    if planted == "entry" and number:
        scales = torch.empty_like(k_scale)
        copy_kernel[(triton.cdiv(number, 64),)](k_scale, scales, number)
        k_scale.copy_(scales)


implementation = Implementation(
    "toy_launches", {"gather": gather}, BUILTIN.contract.__class__(BUILTIN.contract.clauses)
)
