"""Cases for benchmarks: the shapes of DeepSeek-V3.2 with pages of 64 tokens in a pool twice as large as needed."""

from indexfuzz.core.case import Case
from indexfuzz.core.case_parts import Batch, Cache, Model, Prefill

HEAD_DIM = 128
BLOCK_SIZE = 64
TOKENS = ((8,), (64,), (256,))
"""Sizes of stages that work on tokens."""


def prefill(*requests: tuple[int, int], heads: int = 1) -> Case:
    """Requests of (length, new) tokens, most of them cached before; scales are UE8M0."""
    longest = max(length for length, _ in requests)
    tokens = sum(length for length, _ in requests)
    return Case(
        model=Model(num_heads=heads, head_dim=HEAD_DIM, rope_dim=HEAD_DIM // 2, quant_group=HEAD_DIM),
        cache=Cache(block_size=BLOCK_SIZE, pages="permuted", spare_blocks=-(-tokens // BLOCK_SIZE)),
        batch=Batch(prefill=tuple(Prefill(length=length, new=new) for length, new in requests), max_model_len=longest),
    )
