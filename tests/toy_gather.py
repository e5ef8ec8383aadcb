"""A user's own kernels for the tests of the command line: a gather in plain PyTorch that doubles scales.

It is wrong where a request has two or more keys; TOY=right in the environment mends it, TOY=crash makes it crash,
TOY=die ends its process for some numbers of keys, and TOY=unloadable does when it is imported. TOY=later makes it wrong
only in a process in which it was called with another number of keys, too.
"""

import os
import signal

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.implementations.base import Implementation
from indexfuzz.reference import gather as reference

if os.environ.get("TOY") == "unloadable":
    os._exit(0)


SEEN = set[int]()
"""The numbers of keys that it was called with."""


class Contract:
    """Whatever the reference can do."""

    def outside(self, stage: str, case: Case) -> str | None:
        """One scale per token; SHUFFLE needs whole tiles."""
        if case.model.quant_group != case.model.head_dim:
            return "several scales per token"
        shuffled = case.cache.page_layout == "shuffle"
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
    if k_fp8.shape[0] % 16 == 5 and mode == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    reference.gather(
        cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, quant_group=quant_group, layout=layout
    )
    SEEN.add(k_fp8.shape[0])
    if mode == "wrong" or (mode == "later" and len(SEEN) > 1):
        k_scale[1:2] = torch.where(k_scale[1:2] == 0, 1.0, k_scale[1:2] * 2)


implementation = Implementation("toy 1.0", {"gather": gather}, Contract())
