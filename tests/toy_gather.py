"""A user's own kernels for the tests of the command line: a gather in plain PyTorch that doubles scales.

It is wrong where a request has two or more keys; TOY=right in the environment mends it, TOY=crash makes it crash.
"""

import os

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.implementations.base import Implementation
from indexfuzz.reference import gather as reference
from indexfuzz.reference import layout as page_layout


class Contract:
    """Whatever the reference can do."""

    def outside(self, stage: str, case: Case) -> str | None:
        """One scale per token; SHUFFLE needs whole tiles."""
        if case.model.quant_group != case.model.head_dim:
            return "several scales per token"
        shuffled = page_layout.resolve(case.cache.layout, case.cache.block_size) == "shuffle"
        whole = case.cache.block_size % 16 == 0 and case.model.head_dim % 16 == 0
        return "cut tiles" if shuffled and not whole else None

    def must_reject(self, stage: str, case: Case) -> bool:
        """Nothing has to be rejected."""
        return False


def gather(
    cache: Tensor,
    block_table: Tensor,
    cu_seqlens: Tensor,
    token_to_seq: Tensor,
    k_fp8: Tensor,
    k_scale: Tensor,
    *,
    quant_group: int,
    layout: str,
) -> None:
    mode = os.environ.get("TOY", "wrong")
    if mode == "crash":
        raise KeyError("toy")
    reference.gather(
        cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, quant_group=quant_group, layout=layout
    )
    if mode == "wrong":
        k_scale[1:2] = torch.where(k_scale[1:2] == 0, 1.0, k_scale[1:2] * 2)


implementation = Implementation("toy 1.0", {"gather": gather}, Contract())
